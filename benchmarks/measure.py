"""Times calls in turns with torch.utils.benchmark, and appends the results to results/benchmarks.csv."""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.benchmark import Timer

from normplugins.norms import known_norms
from normplugins.runs.record import git_commit, hardware, now
from normplugins.utils.errors import UserError
from normplugins.utils.files import disk_errors
from normplugins.utils.threads import use_threads
from normplugins.utils.worker_processes import available_cores

CSV = "benchmarks.csv"
COLUMNS = [
    *("benchmark", "provider", "case", "median_ms", "p20_ms", "p80_ms", "peak_mb"),
    *("repeats", "hardware", "torch", "commit", "date"),
    *("direction", "gb_per_s", "words_per_s", "sentences_per_s", "threads", "triton", "fairseq", "load"),
    *("baseline", "ratio"),
]
Call = Callable[[], object]


# The options that several benchmarks have. Every benchmark has the first two.
OPTIONS: dict[str, dict[str, Any]] = {
    "--threads": {"type": int, "default": available_cores(), "help": "default: every core"},
    "--results": {"type": Path, "default": Path("results")},
    "--quick": {"action": "store_true", "help": "only the main cases"},
    "--norms": {"default": "", "metavar": "NAME,...", "help": "default: the benchmark's own choice"},
    "--repeats": {"type": int, "metavar": "N", "help": "turns of each provider"},
    "--lengths": {
        "type": Path,
        "metavar": "FILE.npz",
        "help": "random sentences with the lengths of real ones, one array for each language",
    },
    "overrides": {"nargs": "*", "help": "Hydra overrides of the experiment"},
}


def parser_with(description: str | None, *names: str) -> argparse.ArgumentParser:
    """Return a parser with the options that a benchmark uses; the first line of ``description`` describes it."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    for name in ("--threads", "--results", *names):
        parser.add_argument(name, **OPTIONS[name])
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options of a benchmark, and set the number of PyTorch's threads.

    Raises:
        UserError: an unknown norm, or a number below 1.
    """
    options = parser.parse_args(argv)
    if "norms" in options:
        options.norms = tuple(filter(None, options.norms.split(",")))
        if unknown := [name for name in options.norms if name not in known_norms()]:
            raise UserError(f"--norms: unknown norm '{unknown[0]}'. Known: {', '.join(known_norms())}")
    for name in ("repeats", "threads", "updates"):
        number = getattr(options, name, None)
        if number is not None and number < 1:
            raise UserError(f"--{name} {number}: must be at least 1")
    use_threads(options.threads)
    return options


def take_turns(calls: Mapping[Any, Call], repeats: int, seconds: float = 0.0) -> dict[Any, list[float]]:
    """Return the seconds of each call in ``repeats`` turns; in every turn all calls are timed, in a new random order.

    A measurement is torch.utils.benchmark's ``blocked_autorange``: a warm-up, then blocks of calls for at least
    ``seconds``. It synchronizes the GPU and disables Python's garbage collection.
    """
    timers = {
        name: Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
        for name, call in calls.items()
    }
    found: dict[Any, list[float]] = {name: [] for name in calls}
    print(f"measuring {len(calls)} calls in turns, {repeats} rounds", flush=True)
    begun = time.monotonic()
    for number in range(repeats):
        if number == 1:
            print(f"about {(time.monotonic() - begun) * (repeats - 1):.0f} seconds left", flush=True)
        for name in random.sample(list(timers), len(timers)):
            found[name].append(timers[name].blocked_autorange(min_run_time=seconds).median)
    return found


def case_of(**fields: object) -> str:
    """Return a case as text, such as ``tokens=4096 channels=512``."""
    return " ".join(f"{name}={value}" for name, value in fields.items())


def fields_of(case: str) -> dict[str, str]:
    """Return the fields of such a text; none for a case in free text, as in older rows."""
    parts = [part.partition("=") for part in case.split(" ")]
    return {name: value for name, _, value in parts} if all(middle for _, middle, _ in parts) else {}


def machine(threads: int, cpu: bool) -> dict[str, Any]:
    """Return the columns that all rows of a call share: machine, versions, commit, date and the machine's load."""
    found = hardware(cpu=cpu, processes=1)
    device = [] if found["device"] == "CPU" else [found["device"]]
    of_cpu = [found["cpu"], f"{threads} thread{'s' if threads > 1 else ''}", f"{found['memory_gb']} GB"]
    return {
        "hardware": ", ".join([*device, *of_cpu]),
        "torch": torch.__version__,
        "commit": git_commit("benchmarks"),
        "date": now(),
        "threads": threads,
        "triton": _version("triton"),
        "fairseq": _version("fairseq"),
        "load": round(os.getloadavg()[0], 1),
    }


def rows(
    benchmark: str,
    case: str,
    found: Mapping[tuple[str, str], Sequence[float]],
    baseline: str,
    where: Mapping[str, Any],
    **work: float,
) -> pd.DataFrame:
    """Return the rows of a case.

    Args:
        benchmark: the name of the benchmark.
        case: the text of ``case_of``.
        found: the seconds of each turn by provider and direction ("" where there is only one direction).
        baseline: the provider with which the others are compared, direction by direction.
        where: the columns of ``machine``.
        work: what one call does, such as ``words=4096``; the column ``words_per_s`` is computed from it.
    """
    made = []
    for (provider, direction), times in found.items():
        low, middle, high = np.percentile(times, (20, 50, 80))
        numbers: dict[str, float] = {"median_ms": 1000 * middle, "p20_ms": 1000 * low, "p80_ms": 1000 * high}
        numbers |= {f"{name}_per_s": amount / middle for name, amount in work.items()}
        row: dict[str, Any] = {"benchmark": benchmark, "provider": provider, "case": case, "direction": direction}
        row |= {name: float(f"{value:.4g}") for name, value in numbers.items()}
        # the median over turns: other work on the machine slows both sides of a turn, so ratios vary less than times
        ratio = round(float(np.median(np.divide(times, found[baseline, direction]))), 3)
        made.append(row | {"repeats": len(times), "baseline": baseline, "ratio": ratio} | dict(where))
    return pd.DataFrame(made).reindex(columns=COLUMNS)


def append(path: Path, new: pd.DataFrame) -> None:
    """Append rows to the file of measurements in one write, so that an interrupt leaves whole rows.

    Raises:
        UserError: the file has other columns, or cannot be written.
    """
    exists = path.exists()
    check_columns(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            file.write(new.to_csv(index=False, header=not exists, lineterminator="\n").encode())


def check_columns(path: Path) -> None:
    """Raise UserError if there is a file of measurements that has other columns."""
    if path.exists() and list(pd.read_csv(path, nrows=0).columns) != COLUMNS:
        raise UserError(f"{path} does not have the columns {', '.join(COLUMNS[:3])}, ...: move it away")


def read(path: Path) -> pd.DataFrame:
    """Return all rows of a file of measurements; text that a row does not have is empty."""
    text = ("benchmark", "provider", "case", "direction", "hardware", "torch", "triton", "fairseq", "commit", "date")
    table = pd.read_csv(path, dtype=dict.fromkeys(text, str))
    return table.fillna(dict.fromkeys(text, ""))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
