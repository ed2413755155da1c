"""Signals that end a process, deferred until its work is saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deferred_signals(*numbers: int) -> Iterator[list[int]]:
    """Defer these signals inside the block, and deliver the first that arrived when the block ends.

    Only the main thread can handle signals; in other threads nothing is deferred. Yields a list to which the number of
    each signal is added when it arrives.
    """
    arrived: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield arrived
        return
    before = {number: signal.signal(number, lambda number, _frame: arrived.append(number)) for number in numbers}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if arrived:
            signal.raise_signal(arrived[0])
