"""results/benchmarks.csv: a row a measurement, only ever added, whole or not at all; and JSON lists of records."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from normplugins.bench.timing import Timing
from normplugins.runs.record import git_commit, hardware, now
from normplugins.utils.errors import UserError
from normplugins.utils.files import disk_errors, whole_file

CSV = "benchmarks.csv"
COLUMNS = (  # new ones go to the end: the rows of before stay as they are
    *("benchmark", "provider", "case", "median_ms", "p20_ms", "p80_ms", "peak_mb"),
    *("repeats", "hardware", "torch", "commit", "date"),
    *("direction", "gb_per_s", "words_per_s", "sentences_per_s", "threads", "triton", "fairseq", "load"),
    *("baseline", "ratio"),
)


def here(repeats: int, threads: int, cpu: bool = True) -> dict[str, Any]:
    """The columns that every row of one call shares: machine, versions, commit, date, and how busy the machine was."""
    machine = hardware(cpu=cpu, processes=1)
    device = [] if machine["device"] == "CPU" else [machine["device"]]
    of_cpu = [machine["cpu"], f"{threads} thread{'s' if threads > 1 else ''}", f"{machine['memory_gb']} GB"]
    return {
        "repeats": repeats,
        "hardware": ", ".join([*device, *of_cpu]),
        "torch": torch.__version__,
        "commit": git_commit(),
        "date": now(),
        "threads": threads,
        "triton": _version("triton"),
        "fairseq": _version("fairseq"),
        "load": round(os.getloadavg()[0], 1),
    }


def times(timing: Timing) -> dict[str, float]:
    """The columns of a timing, in ms, to four digits."""
    named = {"median_ms": timing.median, "p20_ms": timing.p20, "p80_ms": timing.p80}
    return {name: float(f"{1000 * seconds:.4g}") for name, seconds in named.items()}


def add_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a file of measurements, each in one write, so that nothing breaks it off half-way.

    A file with fewer columns is given the new ones at the end, its rows empty there.

    Raises:
        UserError: the file is none of ours, or cannot be written.
        ValueError: a row has a column that there is not.
    """
    for row in rows:
        if unknown := sorted(row.keys() - set(COLUMNS)):
            raise ValueError(f"no column {', '.join(unknown)} in {CSV}")
        _make_ready(path)
        with disk_errors(path), path.open("ab", buffering=0) as file:
            file.write(_line([row.get(column, "") for column in COLUMNS]).encode())


def measured(
    benchmark: str,
    case: str,
    found: Mapping[tuple[str, str], Timing],
    baseline: str,
    rate: Callable[[str, str, Timing], dict[str, float]],
    where: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The rows of a case.

    Args:
        benchmark: its name.
        case: in words, as ``case_of`` gives them.
        found: by provider and direction; "" where there is but one direction.
        baseline: the provider that the others are compared with, direction by direction.
        rate: (provider, direction, timing) -> the column of a rate.
        where: as ``here`` gives it.
    """
    rows = []
    for (provider, direction), timing in found.items():
        row = {"benchmark": benchmark, "provider": provider, "case": case, "direction": direction}
        rates = {name: float(f"{value:.4g}") for name, value in rate(provider, direction, timing).items()}
        ratio = round(timing.ratio(found[baseline, direction]), 3)
        rows.append(row | times(timing) | rates | {"baseline": baseline, "ratio": ratio} | dict(where))
    return rows


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file of measurements, as text, every column there; none where there is no file.

    Raises:
        UserError: the file is none of ours.
    """
    if not path.is_file():
        return []
    header, *rows = _parsed(path)
    return [dict.fromkeys(COLUMNS, "") | dict(zip(header, row, strict=False)) for row in rows]


def case_of(**fields: object) -> str:
    """The text of a case: ``tokens=4096 channels=512``."""
    return " ".join(f"{name}={value}" for name, value in fields.items())


def fields_of(case: str) -> dict[str, str]:
    """What ``case_of`` put together; nothing of a case in other words."""
    parts = [part.partition("=") for part in case.split(" ")]
    return {name: value for name, _, value in parts} if all(middle for _, middle, _ in parts) else {}


def add_record(path: Path, record: dict[str, Any]) -> None:
    """Print a record and add it to the JSON list in a file, all of it or nothing."""
    print(json.dumps(record, indent=1))
    records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps([*records, record], indent=1) + "\n", encoding="utf-8")


def _parsed(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.reader(file))
    if not found or tuple(found[0]) != COLUMNS[: len(found[0])]:
        raise UserError(f"{path} does not begin with the columns {', '.join(COLUMNS[:3])}, ...: move it away")
    return found


def _make_ready(path: Path) -> None:
    """Write a file that is not there, or has fewer columns than ours, anew."""
    found = _parsed(path) if path.is_file() else []
    if found and tuple(found[0]) == COLUMNS:
        return
    with whole_file(path) as temporary:
        padded = ([*row, *[""] * (len(COLUMNS) - len(row))] for row in found[1:])
        temporary.write_text("".join(map(_line, [list(COLUMNS), *padded])), encoding="utf-8", newline="")


def _line(cells: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
