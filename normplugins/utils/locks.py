"""Exclusive locks between processes."""

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from normplugins.utils.files import disk_errors

_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def hold_lock(path: Path, on_busy: Callable[[str], None]) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` for the duration of the block.

    The operating system releases the lock when the process ends, even if it is killed. Forked processes do not inherit
    the lock. If another process holds it, ``on_busy`` is called with the name of that process (:func:`this_process`).
    When ``on_busy`` returns, this call waits for the lock; ``on_busy`` raises an exception to give up instead. On a
    file system without locks, such as Lustre mounted without ``flock``, a warning is printed and nothing is locked.
    """
    lock = FileLock(path, on_acquired=_write_holder)
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0.2)  # is_held takes a lock for a moment
    except Timeout:
        on_busy(path.read_text(encoding="utf-8", errors="replace").strip() or "unknown")
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(
            f"normplugins: warning: {path.parent} is on a file system without locks ({error.strerror}): "
            "make sure that no other process works in it",
            file=sys.stderr,
        )
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process on this machine, or on one that shares its file locks, holds the lock of :func:`hold_lock`."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no lock, or the file system has no locks
        return False
    return False


def this_process() -> str:
    """Return the id of this process with its machine and, in a Slurm job, the job, as in ``12 on node1, job 7_3``."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
    return f"{os.getpid()} on {socket.gethostname()}" + (f", job {job}" if job else "")


def _write_holder(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{this_process()}\n".encode(), 0)
