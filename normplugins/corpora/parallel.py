"""One function over many lines on all cores: the same list whatever the number of workers."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import Connection

_WORTH_IT = 5000  # lines; below that, starting processes costs more than it saves


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(function: Callable[[str], str], lines: list[str], pipe: Connection, parents_end: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the parent's to answer
    parents_end.close()  # inherited: held open here, it would let the answer to a killed parent wait for ever
    try:
        answer: list[str] | Exception = [function(line) for line in lines]
    except Exception as error:
        answer = error
    with contextlib.suppress(BrokenPipeError):
        pipe.send(answer)


def map_lines(function: Callable[[str], str], lines: list[str], workers: int | None = None) -> list[str]:
    """Return ``[function(line) for line in lines]``, computed on several cores when there are many lines.

    Each process gets one contiguous share and ends after it, so none outlives a killed parent for long. They are
    forked: a fresh interpreter would import torch and fairseq first, which takes longer than the work itself.
    """
    workers = min(workers or available_cores(), len(lines) // _WORTH_IT + 1)
    if workers < 2:
        return [function(line) for line in lines]
    context = multiprocessing.get_context("fork")
    cuts = [len(lines) * i // workers for i in range(workers + 1)]
    jobs = []
    try:
        for start, stop in pairwise(cuts[1:]):
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(function, lines[start:stop], theirs, mine), daemon=True)
            process.start()
            theirs.close()
            jobs.append((process, mine))
        done = [function(line) for line in lines[: cuts[1]]]
        for process, mine in jobs:
            try:
                answer = mine.recv()
            except EOFError:
                process.join()
                raise RuntimeError(f"a worker process died (exit code {process.exitcode})") from None
            if isinstance(answer, Exception):
                raise answer
            done.extend(answer)
            process.join()
        return done
    finally:
        for process, mine in jobs:
            process.terminate()
            mine.close()
