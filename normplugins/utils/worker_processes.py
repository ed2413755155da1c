"""Work in forked processes: a map over all cores with ordered results, and a single call in a subprocess."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_MAX_WORKERS = 32  # one process cannot feed more, and each takes about 60 MB


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chunked(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of ``size`` items; the last one may be shorter."""
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item in order, computed by ``workers`` processes (default: all cores, max. 32).

    At most one item per worker is in flight. Items and results are pickled; ``function`` is inherited by the fork. With
    one worker or one item, this process does the work itself. Raises the exception that ``function`` raises, and
    ``BrokenProcessPool`` when a worker dies.
    """
    items, workers = iter(items), workers or min(available_cores(), _MAX_WORKERS)
    first = list(islice(items, 2))
    items = chain(first, items)
    if workers < 2 or len(first) < 2:
        yield from map(function, items)
        return
    with _pool(function, workers) as pool:
        pending = deque[Future[Result]](pool.submit(_call, item) for item in islice(items, workers))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(_call, item) for item in islice(items, 1))
            yield result


def call_in_subprocess(function: Callable[[], Result]) -> Result:
    """Return ``function()``, computed in a forked process so that its memory is released when the call ends."""
    with _pool(lambda _: function(), 1) as pool:
        result: Result = pool.submit(_call, None).result()
        return result


@contextmanager
def _pool(function: Callable[[Any], Any], workers: int) -> Iterator[ProcessPoolExecutor]:
    # Forked, because a fresh interpreter would have to import torch and fairseq first.
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(function,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(item: Any) -> Any:
    return _function(item)


_function: Callable[[Any], Any]
