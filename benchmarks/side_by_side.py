"""Total training updates per second of 1, 2, 4 and 8 processes that train at the same time on one GPU.

python -m benchmarks.side_by_side [--experiment ptb] [--counts 1,2,4,8] [--seconds 15] [norm=pn ...]
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

from benchmarks.measure import machine, parse, parser_with
from benchmarks.step import own_update
from benchmarks.texts import random_batches
from normplugins.cli import call
from normplugins.commands._arguments import positive_numbers
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config, fairseq_config
from normplugins.training.distributed import on_cpu
from normplugins.utils.errors import UserError
from normplugins.utils.json_file import read_json, write_json
from normplugins.utils.threads import use_threads

PARSER = parser_with(__doc__, "overrides")
PARSER.add_argument("--experiment", default="ptb")
PARSER.add_argument("--counts", default="1,2,4,8", help="numbers of processes")
PARSER.add_argument("--seconds", type=float, default=15.0, help="time of each measurement")
JSON = "side_by_side.json"
ENOUGH = 0.95  # as a fraction of the highest total updates per second
WARM_UP = 5  # updates, in which kernels are compiled and PyTorch allocates its memory
PATIENCE = 300.0  # seconds that processes wait for each other


def main(argv: Sequence[str] | None = None) -> None:
    """Measure an experiment, and add its entry to the file of results: rates by number of processes, and ``jobs``."""
    options = parse(PARSER, argv)
    counts = positive_numbers(options.counts)
    if not counts:
        raise UserError(f"--counts {options.counts}: give numbers of processes, such as 1,2,4,8")
    config = compose_config(options.experiment, options.overrides)
    check(config)
    where, found = machine(options.threads, on_cpu(config)), {}
    for count in counts:
        threads = max(1, options.threads // count)
        found[count] = measure(options.experiment, options.overrides, count, threads, options.seconds)
        print(f"{options.experiment}: {count} processes, {found[count]:.2f} updates/s", flush=True)
    jobs = enough_processes(found)
    print(f"{options.experiment}: {jobs} processes are enough")
    path = options.results / JSON
    known = read_json(path, "delete it and measure again") or {}
    entry = {"updates_per_s": {str(count): round(rate, 2) for count, rate in found.items()}, "jobs": jobs}
    write_json(path, known | {options.experiment: entry | where})


def measure(experiment: str, overrides: Sequence[str], count: int, threads: int, seconds: float) -> float:
    """Return the total updates per second of ``count`` processes that train at the same time, for ``seconds``.

    Each process uses ``threads`` threads.
    """
    context = get_context("spawn")  # each process may use the GPU
    with context.Manager() as manager, ProcessPoolExecutor(count, context) as pool:
        start = manager.Barrier(count, timeout=PATIENCE)
        rate = partial(updates_per_second, experiment, overrides, threads, seconds)
        return sum(pool.map(rate, [start] * count))


def updates_per_second(experiment: str, overrides: Sequence[str], threads: int, seconds: float, start: Any) -> float:
    """Return the updates per second on a full batch of random words, from the moment when all processes are ready."""
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    use_threads(threads)
    config = compose_config(experiment, overrides)
    task, batch, sentences = random_batches(config)
    update = own_update(fairseq_config(config), task)
    full = batch(sentences)
    for _ in range(WARM_UP):
        update(full)
    start.wait()
    count, begun = 0, time.perf_counter()
    while (taken := time.perf_counter() - begun) < seconds:
        update(full)  # reads the loss, and so waits for the GPU
        count += 1
    return count / taken


def enough_processes(found: Mapping[int, float]) -> int:
    """Return the smallest number of processes that reaches ``ENOUGH`` of the highest measured total."""
    return min(count for count, rate in found.items() if rate >= ENOUGH * max(found.values()))


if __name__ == "__main__":
    sys.exit(call(main))
