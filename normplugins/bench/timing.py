"""Times calls against each other: warm-up, turns whose order changes, median with 20th and 80th percentile."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

Call = Callable[[], object]
MOST_CALLS = 10_000  # in a block


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, one number a repeat: the mean over a block of calls."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return self.percentile(50)

    @property
    def p20(self) -> float:
        """The 20th percentile, in seconds."""
        return self.percentile(20)

    @property
    def p80(self) -> float:
        """The 80th percentile, in seconds."""
        return self.percentile(80)

    def percentile(self, percent: float) -> float:
        """A percentile in seconds, on the straight line between the two nearest repeats."""
        return float(np.percentile(self.seconds, percent))

    def ratio(self, baseline: Timing) -> float:
        """How many times as long as ``baseline`` it takes: the median over the repeats, each against its own turn.

        What else the machine does for a while slows both sides of a turn, and leaves their ratio.
        """
        return float(np.median(np.divide(self.seconds, baseline.seconds)))


def compare(
    providers: Mapping[str, Call],
    repeats: int,
    *,
    warmup: int = 1,
    block_seconds: float = 0.0,
    cuda: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time each provider's call in turns: in every repeat all have theirs, in a new order.

    Args:
        providers: name -> call; each is first called ``warmup`` times unmeasured.
        repeats: turns of each.
        warmup: calls before, at least one.
        block_seconds: a turn is as many calls as take about so long, at least one.
        cuda: calls run on the current GPU: timed by its events, after everything before has ended.
        clock: seconds, on the CPU; ``time.process_time`` counts the process's own CPU time, of all threads.

    Raises:
        ValueError: ``repeats`` or ``warmup`` below 1.
    """
    if repeats < 1 or warmup < 1:
        raise ValueError(f"repeats={repeats}, warmup={warmup}: at least 1 of each is needed")

    def block(call: Call, count: int) -> float:
        return _on_gpu(call, count) if cuda else _on_cpu(call, count, clock)

    counts = {}
    for name, call in providers.items():
        block(call, warmup)
        once = block(call, 1) if block_seconds else 0.0
        counts[name] = min(MOST_CALLS, max(1, round(block_seconds / once))) if once > 0 else 1
    seconds: dict[str, list[float]] = {name: [] for name in providers}
    order, shuffle = list(providers), random.Random(0)
    with _no_garbage():
        for _ in range(repeats):
            shuffle.shuffle(order)
            for name in order:
                seconds[name].append(block(providers[name], counts[name]) / counts[name])
    return {name: Timing(tuple(each)) for name, each in seconds.items()}


def _on_cpu(call: Call, count: int, clock: Callable[[], float]) -> float:
    begun = clock()
    for _ in range(count):
        call()
    return clock() - begun


def _on_gpu(call: Call, count: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()  # type: ignore[no-untyped-call]
    for _ in range(count):
        call()
    end.record()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000  # type: ignore[no-untyped-call]


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Keep Python's cycle collector from running inside a measurement."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
