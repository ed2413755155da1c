"""Lines mapped on several cores: order, errors, and no worker left behind by a killed parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from normplugins.corpora import parallel
from normplugins.corpora.parallel import map_lines


@pytest.fixture(autouse=True)
def short_lists_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_WORTH_IT", 1)


@pytest.mark.parametrize("workers", [1, 2, 5, None])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_order_is_kept(workers: int | None, count: int) -> None:
    assert map_lines(str.upper, [f"a{i}" for i in range(count)], workers) == [f"A{i}" for i in range(count)]


def test_an_error_in_a_worker_is_raised_here() -> None:
    def work(line: str) -> str:
        if line == "last":
            raise ValueError("bad line")
        return line

    with pytest.raises(ValueError, match="bad line"):
        map_lines(work, ["first", "last"], 2)


def test_a_dying_worker_is_an_error() -> None:
    parent = os.getpid()

    def work(line: str) -> str:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return line

    with pytest.raises(RuntimeError, match="worker process died"):
        map_lines(work, ["first", "last"], 2)


def test_workers_end_after_their_parent_was_killed() -> None:
    script = textwrap.dedent("""
        import os, signal
        from normplugins.corpora import parallel
        parallel._WORTH_IT, parent = 1, os.getpid()
        def work(line):
            if os.getpid() == parent:
                os.kill(parent, signal.SIGKILL)
            return line * 1_000_000  # more than a pipe takes without a reader
        parallel.map_lines(work, ["a", "b", "c"], 3)
    """)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    # the workers hold the output pipes too: this returns only when all of them have ended
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False, env=env)
    assert done.returncode == -signal.SIGKILL
