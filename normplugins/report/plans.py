"""The campaign's plans in ``configs/campaign/``, and how many of their runs are published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from normplugins.runs.inventory import diverged_path, published_path
from normplugins.utils.paths import config_dir

_OWN_NAME = {"reading=code": (), "reading=masked": ("model.causal=true",),
             "reading=paper": ("model.causal=true", "model.normalize_before=true")}  # fmt: skip
"""The settings by which the name of a cell shows a reading."""
_NOT_IN_A_NAME = ("hardware=", "tracking=", "train.checkpoint_minutes=")


@dataclass(frozen=True)
class Plan:
    """A plan: the seeds of each cell, which is an experiment and the folder name of its runs, in the plan's order."""

    name: str
    cells: dict[tuple[str, str], tuple[int, ...]]

    @property
    def planned(self) -> int:
        """The number of runs."""
        return sum(map(len, self.cells.values()))

    def seeds(self, experiment: str, cell: str) -> tuple[int, ...]:
        """Return the planned seeds of a cell, none for a cell that is not in the plan."""
        return self.cells.get((experiment, cell), ())

    def published(self, results: Path) -> tuple[int, int]:
        """Return how many of the runs have a record under ``results``, and how many others diverged."""
        paths = [
            published_path(results, experiment, cell, seed)
            for (experiment, cell), seeds in self.cells.items()
            for seed in seeds
        ]
        missing = [path for path in paths if not path.exists()]
        return len(paths) - len(missing), sum(diverged_path(path).exists() for path in missing)


def read_plan(name: str) -> Plan:
    """Read ``configs/campaign/NAME.yaml`` without composing its runs, which would take seconds.

    ``runs.campaign_plan.read_plan`` composes the runs and gives the same names.
    """
    content: Any = OmegaConf.to_container(OmegaConf.load(config_dir() / "campaign" / f"{name}.yaml"))
    cells: dict[tuple[str, str], tuple[int, ...]] = {}
    for block in content["blocks"]:
        for text in block["cells"]:
            key = (str(block["experiment"]), _cell_name([*content.get("overrides", []), *text.split()]))
            cells[key] = tuple(dict.fromkeys([*cells.get(key, ()), *map(int, block["seeds"])]))
    return Plan(name, cells)


def _cell_name(overrides: list[str]) -> str:
    norm = next(item.removeprefix("norm=") for item in overrides if item.startswith("norm="))
    others = [item for item in overrides if not item.startswith(("norm=", *_NOT_IN_A_NAME))]
    return ",".join([norm, *sorted(part for item in others for part in _OWN_NAME.get(item, (item,)))])
