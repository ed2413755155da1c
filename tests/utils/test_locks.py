"""A lock is held by one process, and released when that process dies."""

import errno
import fcntl
import multiprocessing
import os
import signal
import socket
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
        with pytest.raises(BusyError, match=f"^{holder.pid} on {socket.gethostname()}$"), hold_lock(path, refuse):
            pass
        holder.kill()
        holder.join()
        with hold_lock(path, refuse):
            assert path.read_text() == f"{os.getpid()} on {socket.gethostname()}\n"
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_names_the_slurm_job_of_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    with hold_lock(tmp_path / "lock", refuse):
        assert (tmp_path / "lock").read_text().endswith(", job 15\n")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with hold_lock(tmp_path / "lock", refuse):
        assert (tmp_path / "lock").read_text().endswith(", job 12_3\n")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    for _ in range(2):
        with hold_lock(tmp_path / "folder" / "lock", refuse):
            pass
    said = capsys.readouterr().err
    assert said.count(f"{tmp_path / 'folder'} is on a file system without locks") == 2
    assert said.count("\n") == 2
