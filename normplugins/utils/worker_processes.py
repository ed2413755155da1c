"""Work shared out to all cores: results in order whatever the number of workers, and few of them held at a time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_MOST = 32  # more workers are not asked for: one process can hardly feed them, and each takes some 60 MB
_context = multiprocessing.get_context("fork")  # a fresh interpreter would import torch and fairseq first


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chunked(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of ``size`` items, the last one shorter."""
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Yield ``function(item)`` of each item, in their order, computed on several cores (default: all, up to 32).

    Each worker has one item at a time, so that no more than one a worker is held. Items and results are pickled,
    ``function`` is inherited. A single item is this process's own work. Raises what ``function`` raises, and
    RuntimeError when a worker dies.
    """
    items, workers = iter(items), workers or min(available_cores(), _MOST)
    first = list(islice(items, 2))
    if workers < 2 or len(first) < 2:
        yield from map(function, chain(first, items))
        return
    idle, busy = workers, deque[_Worker[Item, Result]]()
    try:
        for item in chain(first, items):
            if idle:
                idle -= 1
                busy.append(_Worker(function))
                busy[-1].send(item)
                continue
            result = busy[0].receive()
            busy[0].send(item)
            busy.rotate(-1)
            yield result
        while busy:
            result = busy[0].receive()
            busy.popleft().stop()
            yield result
    finally:
        for worker in busy:
            worker.stop()


def apart(function: Callable[[], Result]) -> Result:
    """Return what ``function`` returns in a process of its own, whose memory goes back to the system when it ends."""
    worker: _Worker[None, Result] = _Worker(lambda _: function())
    try:
        worker.send(None)
        return worker.receive()
    finally:
        worker.stop()


class _Worker(Generic[Item, Result]):
    """A forked process that answers one item at a time, and ends when its parent ends, killed or not."""

    def __init__(self, function: Callable[[Item], Result]) -> None:
        self._pipe, theirs = _context.Pipe()
        ends = os.pipe()  # nothing is ever written: it closes with the parent
        self._lifeline = ends[1]
        self._process = _context.Process(target=_work, args=(function, theirs, *ends), daemon=True)
        self._process.start()
        theirs.close()
        os.close(ends[0])

    def send(self, item: Item) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has died, which receive() says
            self._pipe.send(item)

    def receive(self) -> Result:
        try:
            answer: Any = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise RuntimeError(f"a worker process died (exit code {self._process.exitcode})") from None
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self._pipe.close()
        os.close(self._lifeline)


def _work(function: Callable[[Any], Any], pipe: Connection, lifeline: int, parents_end: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the parent's to answer
    os.close(parents_end)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    while True:
        item = pipe.recv()
        try:
            answer = function(item)
        except Exception as error:
            answer = error
        pipe.send(answer)


def _end_with(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)
