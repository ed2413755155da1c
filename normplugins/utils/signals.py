"""Signals that end a process, held back while it does what must not be lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_back(*numbers: int) -> Iterator[list[int]]:
    """Hold back these signals inside the block, and deliver the first that came when the block ends.

    Only the main thread can handle signals; in other threads nothing is held back.

    Yields:
        The numbers of the signals that have come so far.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if came:
            signal.raise_signal(came[0])
