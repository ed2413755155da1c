"""A fixture of two processes that train together. The pair is started once, and serves all tests."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

PATIENCE = timedelta(seconds=120)  # how long a process waits for the other


class Pair:
    """Two gloo processes. ``call`` runs a module-level function in both at once, and returns its results by rank."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        self.pipes, ends = zip(*(context.Pipe() for _ in range(2)), strict=True)
        self.processes = [
            context.Process(target=_serve, args=(rank, ends[rank], folder / "store"), daemon=True) for rank in range(2)
        ]
        for process, end in zip(self.processes, ends, strict=True):
            process.start()
            end.close()

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Run ``function(*arguments)`` in each process. Raises AssertionError with the traceback if one fails."""
        for pipe in self.pipes:
            pipe.send((function, arguments))
        answers = [pipe.recv() for pipe in self.pipes]
        for rank, (ok, answer) in enumerate(answers):
            assert ok, f"process {rank}: {answer}"
        return [answer for _, answer in answers]

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(PATIENCE.total_seconds())


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Two processes that all tests of the session share."""
    pair = Pair(tmp_path_factory.mktemp("pair"))
    yield pair
    pair.close()


def _serve(rank: int, pipe: Connection, store: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=PATIENCE)
    while (work := pipe.recv()) is not None:
        function, arguments = work
        try:
            pipe.send((True, function(*arguments)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
    dist.destroy_process_group()
