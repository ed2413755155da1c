"""Adding to the benchmarks' results: rows of benchmarks.csv, and records of a JSON list."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from normplugins.corpora.files import whole_file
from normplugins.experiment.record import git_commit, hardware, now

CSV = Path(__file__).parents[1] / "results" / "benchmarks.csv"
COLUMNS = (
    *("benchmark", "provider", "case", "median_ms", "p20_ms", "p80_ms", "peak_mb"),
    *("repeats", "hardware", "torch", "commit", "date"),
)


def here(repeats: int, threads: int) -> dict[str, Any]:
    """The columns that every row of one call shares."""
    machine = hardware(cpu=True, processes=1)
    return {
        "repeats": repeats,
        "hardware": f"{machine['cpu']}, {threads} thread{'s' if threads > 1 else ''}, {machine['memory_gb']} GB",
        "torch": torch.__version__,
        "commit": git_commit(),
        "date": now(),
    }


@contextmanager
def csv_rows() -> Iterator[csv.DictWriter[str]]:
    """Add rows to benchmarks.csv."""
    new = not CSV.exists()
    with CSV.open("a", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            rows.writeheader()
        yield rows


def add_record(path: Path, record: dict[str, Any]) -> None:
    """Print a record and add it to the JSON list in a file, all of it or nothing."""
    print(json.dumps(record, indent=1))
    records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps([*records, record], indent=1) + "\n", encoding="utf-8")
