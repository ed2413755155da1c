"""A lock is held by one process, and released when that process dies."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from normplugins.utils.locks import hold_lock


class BusyError(Exception):
    """Another process holds the lock."""


def refuse(holder: str) -> None:
    raise BusyError(holder)


def test_a_killed_holder_releases_the_lock_even_if_a_process_that_it_forked_lives_on(tmp_path: Path) -> None:
    path, context = tmp_path / "run" / "lock", multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def hold() -> None:
        with hold_lock(path, refuse):
            if child := os.fork():
                theirs.send(child)
            time.sleep(60)

    holder = context.Process(target=hold)
    holder.start()
    child = ours.recv()
    try:
        with pytest.raises(BusyError, match=f"^{holder.pid}$"), hold_lock(path, refuse):
            pass
        holder.kill()
        holder.join()
        with hold_lock(path, refuse):
            assert path.read_text() == f"{os.getpid()}\n"
    finally:
        os.kill(child, signal.SIGKILL)
