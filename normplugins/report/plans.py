"""The campaign's plans in ``configs/campaign/``, and how many of their runs are published."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from normplugins.report.table import build_table
from normplugins.runs.cell import changes_result, join_cell_name
from normplugins.runs.inventory import DIVERGED
from normplugins.runs.plan_file import read_plan_file
from normplugins.utils.errors import UserError
from normplugins.utils.paths import config_dir
from normplugins.utils.terminal import Table

NU_BOUND = "nu_bound"
"""The plan with PN and PN as written, with and without group scaling, for half of the epochs."""
_READINGS = {"reading=code": (), "reading=masked": ("model.causal=true",),
             "reading=paper": ("model.causal=true", "model.normalize_before=true")}  # fmt: skip
"""The settings that stand for a reading in the name of a cell."""


@dataclass(frozen=True)
class Progress:
    """How many runs of a plan are published, how many others diverged, and the experiment and cell of each one left."""

    published: int
    diverged: int
    left: tuple[tuple[str, str], ...]

    @property
    def planned(self) -> int:
        """The number of runs."""
        return self.published + self.diverged + len(self.left)


@dataclass(frozen=True)
class Plan:
    """A plan: the seeds of each cell, in the plan's order. A cell is an experiment and the folder name of its runs."""

    name: str
    cells: dict[tuple[str, str], tuple[int, ...]]
    decides: str = ""

    @staticmethod
    @cache  # a report asks for the plans dozens of times
    def named(name: str) -> "Plan":
        """Return the plan ``configs/campaign/NAME.yaml``. Its runs are not composed, because that would take seconds.

        ``runs.campaign.read_plan`` composes the runs and gives the same names.
        """
        content = read_plan_file(config_dir() / "campaign" / f"{name}.yaml")
        cells: dict[tuple[str, str], tuple[int, ...]] = {}
        for block in content.blocks:
            for text in block.cells:
                key = (block.experiment, _cell_name([*content.overrides, *text.split()]))
                cells[key] = tuple(dict.fromkeys([*cells.get(key, ()), *block.seeds]))
        return Plan(name, cells, content.decides)

    def seeds(self, experiment: str, cell: str) -> tuple[int, ...]:
        """Return the planned seeds of a cell; a cell that is not in the plan has none."""
        return self.cells.get((experiment, cell), ())

    def progress(self, results: Path) -> Progress:
        """Return how many runs are published, diverged or left, according to the records under ``results``."""
        files: dict[tuple[str, str], set[str]] = defaultdict(set)
        for experiment in {experiment for experiment, _ in self.cells}:
            shared = shares_batches(experiment)  # then a run with any number of processes is a run of the plan
            for path in (results / "runs" / experiment).glob("*/seed*.json"):
                cell = path.parent.name
                files[experiment, re.sub(r",processes=\d+", "", cell) if shared else cell].add(path.name)
        published, diverged, left = 0, 0, []
        for (experiment, cell), seeds in self.cells.items():
            for seed in seeds:
                if f"seed{seed}.json" in files[experiment, cell]:
                    published += 1
                elif f"seed{seed}{DIVERGED}" in files[experiment, cell]:
                    diverged += 1
                else:
                    left.append((experiment, cell))
        return Progress(published, diverged, tuple(left))


@cache
def experiment_setting(experiment: str, key: str) -> Any:
    """Return the value of a setting in an experiment's own file; None if the file does not exist or does not set it."""
    path = config_dir() / f"{experiment}.yaml"
    return OmegaConf.select(OmegaConf.load(path), key) if path.exists() else None


def shares_batches(experiment: str) -> bool:
    """Whether the processes of an experiment share the batches of an update, rather than each adding its own."""
    return experiment_setting(experiment, "train.batches_per_update") is not None


def all_plans(first: str = "") -> Iterator[Plan]:
    """Read the plans in ``configs/campaign/`` one after another: the one named ``first``, then the others by name."""
    names = sorted(path.stem for path in (config_dir() / "campaign").glob("*.yaml"))
    yield from map(Plan.named, sorted(names, key=lambda name: name != first))


def plan_of(experiment: str) -> Plan:
    """Return the plan named like an experiment, or else the first with runs of it, or else an empty plan."""
    return next(
        (plan for plan in all_plans(experiment) if any(name == experiment for name, _ in plan.cells)),
        Plan(experiment, {}),
    )


def by_plan(experiment: str, runs: pd.DataFrame) -> list[tuple[Plan, pd.DataFrame]]:
    """Divide the runs of an experiment among the plans, so that a table holds what a plan compares.

    Each plan has the rows of its runs, beginning with the plan of the experiment, which has every seed of its cells. A
    run belongs to every plan that lists it. A plan is left out if earlier plans have all of its runs. Runs that no plan
    lists form the plan ``other``.
    """
    parts: list[tuple[Plan, pd.DataFrame]] = []
    left = runs
    for plan in all_plans(experiment):
        listed = [
            seed in plan.seeds(experiment, cell) or (plan.name == experiment and (experiment, cell) in plan.cells)
            for cell, seed in zip(runs["variant"], runs["seed"], strict=True)
        ]
        own = runs[listed]
        if own.index.isin(left.index).any():
            parts.append((plan, own))
            left = left.drop(own.index, errors="ignore")
    return [*parts, (Plan("other", {}), left)] if len(left) else parts


def plan_table(results: Path, found: pd.DataFrame) -> Table:
    """Return a table of the plans: what each decides, how many of its runs are published, and the hours left."""
    runs = found[found["diverged"] == ""].drop_duplicates(["experiment", "variant", "seed"])
    schedules = [_schedule(*cell) for cell in zip(runs["experiment"], runs["variant"], strict=True)]
    per_epoch = runs["wall_seconds"] / [epochs for _, epochs in schedules]
    usual = per_epoch.groupby([name for name, _ in schedules]).median()
    rows = []
    for plan in all_plans():
        progress = plan.progress(results)
        left = [_schedule(*cell) for cell in progress.left]
        known = [usual[name] * epochs / 3600 for name, epochs in left if name in usual]
        unknown = len(left) - len(known)
        hours = f"{sum(known):.0f}" + (f", {unknown} runs unknown" if unknown else "")
        done = f"{progress.published} of {progress.planned}"
        rows.append({
            "plan": f"[{plan.name}](../configs/campaign/{plan.name}.yaml)",
            "what it decides": plan.decides,
            "published": f"{done}, {progress.diverged} diverged" if progress.diverged else done,
            "minutes\nper run": f"{60 * sum(known) / len(known):.0f}" if known else "",
            "run-hours\nleft": hours if known or not left else "unknown",
        })  # fmt: skip
    notes = [
        "`normplugins campaign configs/campaign/PLAN.yaml` runs what is left of a plan.",
        "The run-hours are the number of epochs left times the median time of an epoch in the experiment's published "
        "runs with the same batch size. That time includes pauses and other work. Several runs at the same time take "
        "less. Without such a run, the time of a run is unknown.",
        "A run that two plans list is counted in both.",
    ]
    return build_table("The plans", rows, texts=["plan", "what it decides"], notes=notes)


def _schedule(experiment: str, cell: str) -> tuple[str, int]:
    """Return a text that names what the time of an epoch depends on, and the number of epochs.

    The number is 1 if neither the cell nor the experiment's own file sets it.
    """
    given = dict(item.partition("=")[::2] for item in cell.split(",")[1:])
    usual = experiment_setting(experiment, "optimization.max_epoch")
    batches = [f"{key}={given[key]}" for key in ("budget", "dataset.max_tokens", "dataset.batch_size") if key in given]
    return ",".join([experiment, *batches]), int(given.get("optimization.max_epoch", usual or 1))


def _cell_name(overrides: list[str]) -> str:
    norm = next((item.removeprefix("norm=") for item in overrides if item.startswith("norm=")), "")
    if not norm:
        raise UserError(f"a plan's cell '{' '.join(overrides)}' names no norm: add norm=NAME")
    named = [item for item in overrides if (key := item.partition("=")[0]) != "norm" and changes_result(key)]
    others = [re.sub(r"[][]", "", item) for item in named if not item.startswith(("hardware=", "tracking="))]
    return join_cell_name(norm, [part for item in others for part in _READINGS.get(item, (item,))])
