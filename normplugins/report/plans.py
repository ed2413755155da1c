"""The campaign's plans in ``configs/campaign/``, and how many of their runs are published."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from normplugins.report.table import Column, Table
from normplugins.runs.inventory import diverged_path, published_path
from normplugins.runs.plan_file import read_plan_file
from normplugins.utils.paths import config_dir

_OWN_NAME = {"reading=code": (), "reading=masked": ("model.causal=true",),
             "reading=paper": ("model.causal=true", "model.normalize_before=true")}  # fmt: skip
"""The settings by which the name of a cell shows a reading."""
_NOT_IN_A_NAME = ("hardware", "tracking", "train.checkpoint_minutes=")


@dataclass(frozen=True)
class Plan:
    """A plan: the seeds of each cell, which is an experiment and the folder name of its runs, in the plan's order."""

    name: str
    cells: dict[tuple[str, str], tuple[int, ...]]
    decides: str = ""

    @classmethod
    def named(cls, name: str) -> Plan:
        """Read ``configs/campaign/NAME.yaml`` without composing its runs, which would take seconds.

        ``runs.campaign_plan.read_plan`` composes the runs and gives the same names.
        """
        content = read_plan_file(config_dir() / "campaign" / f"{name}.yaml")
        cells: dict[tuple[str, str], tuple[int, ...]] = {}
        for block in content.blocks:
            for text in block.cells:
                key = (block.experiment, _cell_name([*content.overrides, *text.split()]))
                cells[key] = tuple(dict.fromkeys([*cells.get(key, ()), *block.seeds]))
        return cls(name, cells, content.decides)

    @property
    def planned(self) -> int:
        """The number of runs."""
        return sum(map(len, self.cells.values()))

    def seeds(self, experiment: str, cell: str) -> tuple[int, ...]:
        """Return the planned seeds of a cell, none for a cell that is not in the plan."""
        return self.cells.get((experiment, cell), ())

    def published(self, results: Path) -> tuple[int, int]:
        """Return how many of the runs have a record under ``results``, and how many others diverged."""
        missing = [path for _, path in self._paths(results) if not path.exists()]
        return self.planned - len(missing), sum(diverged_path(path).exists() for path in missing)

    def missing(self, results: Path) -> list[str]:
        """Return the experiment of each run that has neither a record under ``results`` nor diverged."""
        paths = self._paths(results)
        return [name for name, path in paths if not (path.exists() or diverged_path(path).exists())]

    def _paths(self, results: Path) -> list[tuple[str, Path]]:
        return [
            (experiment, published_path(results, experiment, cell, seed))
            for (experiment, cell), seeds in self.cells.items()
            for seed in seeds
        ]


def all_plans(first: str = "") -> Iterator[Plan]:
    """Read the plans in ``configs/campaign/`` one after another: the one named ``first``, then the others by name."""
    names = sorted(path.stem for path in (config_dir() / "campaign").glob("*.yaml"))
    yield from map(Plan.named, sorted(names, key=lambda name: name != first))


def plan_of(experiment: str) -> Plan:
    """Return the plan named like an experiment, or else the first one with runs of it; an empty plan without any."""
    return next(
        (plan for plan in all_plans(experiment) if any(name == experiment for name, _ in plan.cells)),
        Plan(experiment, {}),
    )


def plan_table(results: Path, found: pd.DataFrame) -> Table:
    """Return a table of the plans: what each decides, how many of its runs are published, and the hours that are left.

    Args:
        results: the folder of the records.
        found: the records, as :func:`normplugins.report.records.read_results` returns them.
    """
    runs = found[found["diverged"] == ""].drop_duplicates(["experiment", "variant", "seed"])
    usual = runs.groupby("experiment")["wall_seconds"].mean()
    rows = []
    for plan in all_plans():
        published, diverged = plan.published(results)
        left = plan.missing(results)
        hours = sum(usual.get(experiment, math.nan) for experiment in left) / 3600
        rows.append([
            f"[{plan.name}](../configs/campaign/{plan.name}.yaml)", plan.decides,
            f"{published} of {plan.planned}{f', {diverged} diverged' if diverged else ''}",
            "unknown" if math.isnan(hours) else f"{hours:.0f}",
        ])  # fmt: skip
    minutes = ", ".join(f"{experiment} {seconds / 60:.0f}" for experiment, seconds in usual.items())
    notes = [
        "The hours are an estimate: the runs that are left times the mean training time of the published runs of "
        f"their experiment (minutes: {minutes}), whatever their settings and the load of the machine. They are unknown "
        "for an experiment without a published run.",
        "A run that two plans list is counted in both.",
        "`normplugins campaign configs/campaign/PLAN.yaml` runs what is left of a plan.",
    ]
    columns = [Column("plan", False), Column("what it decides", False), Column("published"), Column("hours\nleft")]
    return Table("The plans", columns, rows, notes, "plans")


def _cell_name(overrides: list[str]) -> str:
    norm = next(item.removeprefix("norm=") for item in overrides if item.startswith("norm="))
    others = [re.sub(r"[][]", "", item) for item in overrides if not item.startswith(("norm=", *_NOT_IN_A_NAME))]
    return ",".join([norm, *sorted(part for item in others for part in _OWN_NAME.get(item, (item,)))])
