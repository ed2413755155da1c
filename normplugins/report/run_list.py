"""The tables of ``normplugins list``: one for each experiment, a row for each run."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import groupby

from rich.filesize import decimal

from normplugins.report.metrics import metric_name
from normplugins.report.table import build_table
from normplugins.runs.inventory import STATES, FoundRun
from normplugins.utils.terminal import Table, paragraph, terminal


def run_list(runs: Sequence[FoundRun], width: int | None) -> str:
    """Return the tables of runs and a line with their number, size and states.

    The runs must be sorted by experiment. ``width`` is that of the terminal in characters; None: as wide as the tables
    are.
    """
    now = datetime.now(timezone.utc)
    parts = [
        terminal(_table(experiment, list(members), now), width)
        for experiment, members in groupby(runs, lambda run: run.experiment)
    ]
    counts = Counter(run.state for run in runs)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    total = f"{len(runs)} run{'' if len(runs) == 1 else 's'}, {decimal(sum(run.bytes for run in runs))}: {states}"
    return "\n\n".join([*parts, paragraph(total, width)])


def age(when: datetime, now: datetime) -> str:
    """Return the time since ``when``: ``now``, ``5 min``, ``3 h``, ``2 days``."""
    minutes = (now - when).total_seconds() / 60
    if minutes < 1:
        return "now"
    if minutes < 60:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days"


def _table(experiment: str, runs: Sequence[FoundRun], now: datetime) -> Table:
    """Return the table of an experiment; a run has one metric."""
    metrics = list(dict.fromkeys(run.metric for run in runs if run.metric))
    rows = [
        {
            "norm": _name(run),
            "seed": str(run.seed) if run.cell else "",
            "state": run.state,
            "updates": f"{run.updates:,}{f'/{run.of:,}' if run.of else ''}" if run.cell else "",
            **{metric_name(metric): f"{run.score:.2f}" if run.metric == metric and run.score is not None else ""
               for metric in metrics},
            "age": age(run.when, now),
            "disk": decimal(run.bytes),
        }
        for run in runs
    ]  # fmt: skip
    return build_table(experiment or "not readable", rows, texts=("norm", "state"), details=("age", "disk"))


def _name(run: FoundRun) -> str:
    """Return the cell, followed by the folder if that is not the run's default folder."""
    usual = run.folder.parts[-3:] == (run.experiment, run.cell, f"seed{run.seed}")
    return run.cell.replace(",", ", ") + ("" if usual else f" in {run.folder}") if run.cell else str(run.folder)
