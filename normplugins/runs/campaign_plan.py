"""Reads the runs of a campaign's plans, and the state of each run."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from normplugins.runs import folder, inventory, record
from normplugins.runs.cell import changed_settings, flatten
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config
from normplugins.runs.plan_file import read_plan_file
from normplugins.utils.errors import UserError
from normplugins.utils.json_file import read_json

_FIXED = ("seed=", "run_dir=", "force=", "dry_run=", "experiment=")
_REMEDY = "restore it, or delete it to run that seed again"
_SEEDS = ("seed", "common.seed", "task.seed")  # the keys of a config that hold the seed of the run


@dataclass(frozen=True, eq=False)
class Planned:
    """One run of a plan: its overrides except the seed, its flat config, its folder and the path of its record."""

    overrides: tuple[str, ...]
    settings: dict[str, Any]
    run_dir: Path
    published: Path

    def __str__(self) -> str:
        return "{experiment} {variant} seed {seed}".format(**self.settings)

    @property
    def diverged(self) -> Path:
        """The path of the file that is published instead of a record if the loss was not finite."""
        return inventory.diverged_path(self.published)

    @property
    def record(self) -> dict[str, Any] | None:
        """The published record, if it has the current format and the config of this run."""
        found = read_json(self.published, _REMEDY) or {}
        return found if found.get("format") == record.FORMAT and self._has_settings(found["config"]) else None

    def _has_settings(self, published: dict[str, Any]) -> bool:
        before, planned = (record.without_absolute_paths(each) for each in (published, self.settings))
        return not changed_settings(before, planned)

    @property
    def state(self) -> str:
        """``done``, ``diverged``, ``started`` or ``left``."""
        if self.record:
            return "done"
        lost = read_json(self.diverged, _REMEDY)
        if lost and ("config" not in lost or self._has_settings(lost["config"])):  # files of 0.3.0 have no config
            return "diverged"
        return "started" if (self.run_dir / folder.CONFIG).exists() else "left"

    @property
    def progress(self) -> float:
        """The fraction of its updates that a started run has made, according to its log."""
        updates, of = inventory.progress(self.run_dir)
        return updates / of if of else 0.0


def read_plan(*paths: Path, results: Path = Path("results")) -> list[Planned]:
    """Read the runs of one or more plans in order; a run that several blocks list is read once.

    ``results`` is the folder in which their records are published.

    Raises:
        UserError: a plan cannot be read or has an unknown key, or the config of one of its cells is invalid.
    """
    # Two plans may write the same cell differently, so runs are compared by the record they publish.
    return list({planned.published: planned for path in paths for planned in _read(path, results)}.values())


def _read(path: Path, results: Path) -> Iterator[Planned]:
    plan = read_plan_file(path)

    @cache
    def composed(experiment: str, overrides: tuple[str, ...]) -> tuple[DictConfig, dict[str, Any]]:
        if fixed := [word for word in overrides if word.lstrip("+~").startswith(_FIXED)]:
            raise UserError(f"{path}: '{fixed[0]}' cannot be set in a plan: its blocks list experiments and seeds")
        config = compose_config(experiment, overrides)
        check(config)
        return config, dict(flatten(config))

    for block in plan.blocks:
        for seed in block.seeds:
            for cell in block.cells:
                overrides = (*plan.overrides, *cell.split())
                config, settings = composed(block.experiment, overrides)
                settings = settings | {key: seed for key in _SEEDS if key in settings}
                run_dir = Path(config.run_dir).with_name(f"seed{seed}")
                published = inventory.published_path(results, config.experiment, config.variant, seed)
                yield Planned(overrides, settings, run_dir, published)
