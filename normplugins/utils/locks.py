"""Exclusive locks between processes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from normplugins.utils.files import disk_errors


@contextmanager
def hold_lock(path: Path, on_busy: Callable[[str], None]) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` for the duration of the block.

    The operating system releases the lock when the process ends, even if it is killed. Forked processes do not inherit
    the lock. If another process holds it, ``on_busy`` is called with the id of that process. When ``on_busy`` returns,
    this call waits for the lock; ``on_busy`` raises an exception to give up instead.
    """
    lock = FileLock(path, on_acquired=_write_process_id)
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout:
        on_busy(path.read_text(encoding="utf-8").strip() or "unknown")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write_process_id(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
