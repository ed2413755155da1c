"""Items mapped on several cores: order, few of them held, errors, and no worker left behind by a killed parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from normplugins.utils.worker_processes import call_in_subprocess, chunked, map_ordered


@pytest.mark.parametrize("workers", [1, 2, 5, None])
@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_order_is_kept(workers: int | None, count: int) -> None:
    items = [f"a{i}" for i in range(count)]
    assert list(map_ordered(str.upper, items, workers)) == [f"A{i}" for i in range(count)]


def test_chunks_hold_everything_once() -> None:
    assert [list(chunk) for chunk in chunked(range(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_no_more_items_are_taken_than_there_are_workers_and_two() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(50):
            taken += 1
            yield number

    for done, result in enumerate(map_ordered(str, items(), 3), 1):
        assert result == str(done - 1)
        assert taken <= done + 3


def test_work_is_done_elsewhere_and_workers_end_with_the_last_item_or_earlier() -> None:
    def work(_: int) -> int:
        time.sleep(0.02)
        return os.getpid()

    processes = set(map_ordered(work, range(12), 3))
    assert 1 < len(processes) <= 3
    assert os.getpid() not in processes
    left_early = map_ordered(work, range(12), 3)
    processes.add(next(left_early))
    left_early.close()
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    assert call_in_subprocess(os.getpid) != os.getpid()


def test_an_error_in_a_worker_is_raised_here() -> None:
    def work(line: str) -> str:
        if line == "last":
            raise ValueError("bad line")
        return line

    with pytest.raises(ValueError, match="bad line"):
        list(map_ordered(work, ["first", "last"], 2))
    with pytest.raises(ValueError, match="bad line"):
        call_in_subprocess(lambda: work("last"))


def test_a_dying_worker_is_an_error() -> None:
    def work(line: str) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return line

    with pytest.raises(RuntimeError, match=r"terminated abruptly"):
        list(map_ordered(work, ["first", "last"], 2))


@pytest.mark.parametrize("state", ["waiting for an item", "at work"])
def test_workers_end_at_once_after_their_parent_was_killed(state: str) -> None:
    script = textwrap.dedent(f"""
        import os, signal, time
        from normplugins.utils.worker_processes import map_ordered
        def work(line):
            if line == "last":
                os.kill(parent, signal.SIGKILL)
            if line == "last" or {state == "at work"}:
                time.sleep(3600)
            return line * 1_000_000  # more than a pipe takes without a reader
        parent = os.getpid()
        list(map_ordered(work, ["a", "b", "last"], 3))
    """)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    # the workers hold the output pipes too: this returns only when all of them have ended
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False, env=env)
    assert done.returncode == -signal.SIGKILL
