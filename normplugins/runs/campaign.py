"""Runs the cells of a plan one after another until all are published, and shows the progress of each.

A plan lists cells in blocks; a cell is a list of overrides of an experiment. Within a block, all cells run with one
seed before the next seed begins, so that each seed gives a complete comparison. A run that was started is resumed
first, and a published one is not repeated. A campaign that is stopped at any moment continues with the same command.
"""

import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from omegaconf import DictConfig

from normplugins.runs import folder, inventory, record
from normplugins.runs.cell import changed_settings, flatten
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config
from normplugins.runs.plan_file import read_plan_file
from normplugins.runs.publish import publish
from normplugins.runs.run import run
from normplugins.utils.errors import InUse, NotFinite, UserError
from normplugins.utils.json_file import read_json, write_json
from normplugins.utils.terminal import Column, Table, paragraph, terminal, terminal_width

_FIXED = ("seed=", "run_dir=", "force=", "dry_run=", "experiment=")
_SEEDS = ("seed", "common.seed", "task.seed")  # the keys of a config that hold the seed of the run


class TimeIsUp(BaseException):
    """The campaign has used its minutes. This is no Exception, because handlers of exceptions may retry what failed."""


@dataclass(frozen=True, eq=False)
class Planned:
    """One run of a plan: its overrides except the seed, its flat config, its folder and the path of its record."""

    overrides: tuple[str, ...]
    settings: dict[str, Any]
    run_dir: Path
    published: Path

    def __str__(self) -> str:
        return f"{self.settings['variant']} seed {self.settings['seed']}"

    @property
    def diverged(self) -> Path:
        """The file that is published instead of a record when the loss was not finite."""
        return inventory.diverged_path(self.published)

    @property
    def record(self) -> dict[str, Any] | None:
        """The published record, if it has the current format and the config of this run."""
        found = read_json(self.published, "restore it, or delete it to run that seed again") or {}
        if found.get("format") != record.FORMAT:
            return None
        published, planned = (record.without_absolute_paths(each) for each in (found["config"], self.settings))
        return None if changed_settings(published, planned) else found

    @property
    def state(self) -> str:
        """``done``, ``diverged``, ``started`` or ``left``."""
        if self.record:
            return "done"
        if self.diverged.exists():
            return "diverged"
        return "started" if (self.run_dir / folder.CONFIG).exists() else "left"

    @property
    def progress(self) -> float:
        """The share of the updates that a started run has made, from its log."""
        updates, of = inventory.progress(self.run_dir)
        return updates / of if of else 0.0


def read_plan(*paths: Path, results: Path = Path("results")) -> list[Planned]:
    """Read the runs of one or more plans in their order, each run once even if several blocks list it.

    Args:
        paths: the plans.
        results: the folder in which the records are published.

    Raises:
        UserError: a plan cannot be read, has an unknown key, or one of its cells cannot work.
    """
    # Two plans may write the same cell differently, so runs are compared by the record they publish.
    return list({planned.published: planned for path in paths for planned in _read(path, results)}.values())


def _read(path: Path, results: Path) -> Iterator[Planned]:
    plan = read_plan_file(path)

    @cache
    def composed(experiment: str, overrides: tuple[str, ...]) -> tuple[DictConfig, dict[str, Any]]:
        if fixed := [word for word in overrides if word.lstrip("+~").startswith(_FIXED)]:
            raise UserError(f"{path}: '{fixed[0]}' is not for a plan to set: its blocks list experiments and seeds")
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


def campaign(
    plans: Sequence[Path], minutes: float | None = None, show_only: bool = False, results: Path = Path("results")
) -> bool:
    """Run what is left of the plans, in their order, and publish each finished record.

    Runs in the folder of which another process works are skipped.

    Args:
        plans: YAML files, such as ``configs/campaign/multi30k.yaml``.
        minutes: stop after this time, even within a run; None: run to the end.
        show_only: print the table and run nothing.
        results: the folder in which the records are published.

    Returns:
        Whether nothing is left.

    Raises:
        UserError: a plan cannot work, another campaign runs in this folder, or a run failed for another reason than a
            loss that is not finite.
    """
    runs = read_plan(*plans, results=results)
    if show_only:
        print(overview(runs))
        return not _left(runs)
    failures: dict[Planned, str] = {}
    skipped: set[Planned] = set()
    try:
        with folder.locked(Path("runs") / ".campaign"), _for_minutes(minutes):
            while left := [planned for planned in _left(runs) if planned not in failures and planned not in skipped]:
                planned = min(left, key=lambda each: each.state != "started")  # the first of them in the plan's order
                print(overview(runs, planned), flush=True)
                try:
                    _carry_out(planned, results)
                    if planned in _left(runs):
                        raise UserError(f"it ended, and {planned.published} is not its record")
                except InUse as error:  # the other process publishes the record
                    skipped.add(planned)
                    print(f"{planned} skipped: {error}")
                except Exception as error:  # a failure of any kind must not stop the other runs
                    if not isinstance(error, UserError):
                        traceback.print_exc()
                    failures[planned] = str(error)
                    print(f"{planned} failed: {error}")
    except TimeIsUp:
        print(f"{minutes:g} minutes are up: the same command goes on from here")
    print(overview(runs))
    if failures:
        first, message = next(iter(failures.items()))
        raise UserError(f"runs that failed: {len(failures)}, the first {first}: {message}")
    return not _left(runs)


def _left(runs: Sequence[Planned]) -> list[Planned]:
    return [planned for planned in runs if planned.state in ("started", "left")]


def _carry_out(planned: Planned, results: Path) -> None:
    """Complete one run and publish it. A loss that is not finite is a result, and is published as one."""
    cell = {key: planned.settings[key] for key in ("experiment", "variant", "seed")}
    try:
        run(compose_config(cell["experiment"], [*planned.overrides, f"seed={cell['seed']}"]))
    except NotFinite as error:
        outcome = {"diverged": str(error), "git_commit": record.git_commit(), "finished_at": record.now()}
        write_json(planned.diverged, cell | outcome)
        return
    publish(planned.run_dir, results, force=True)  # what is published there is not the record of this plan


def overview(runs: Sequence[Planned], running: Planned | None = None) -> str:
    """Return a table with the seeds of each cell by their state, and a line with the hours that are left."""
    cells: dict[tuple[str, str], dict[str, list[str]]] = {}
    seconds, to_go = [], 0.0  # to_go: runs that are left; a started run counts with the part that is left
    for planned in runs:
        experiment, variant, seed = (str(planned.settings[key]) for key in ("experiment", "variant", "seed"))
        row = cells.setdefault((experiment, variant), {"done": [], "running": [], "left": []})
        if done := planned.record:
            row["done"].append(seed)
            seconds.append(done["training"]["wall_seconds"] + done.get("decoding", {}).get("seconds", 0.0))
        elif planned.state == "diverged":
            row["done"].append(f"{seed} (diverged)")
        else:
            to_go += 1 - planned.progress
            if planned == running or planned.state == "started":
                row["running"].append(f"{seed} ({planned.progress:.0%})")
            else:
                row["left"].append(seed)
    experiments = sorted({experiment for experiment, _ in cells})
    common = set.intersection(*(set(variant.split(",")[1:]) for _, variant in cells)) if cells else set()
    shared = [f"experiment {experiments[0]}" if len(experiments) == 1 else "", *sorted(common)]
    rows = []
    for (experiment, variant), row in cells.items():
        name = ", ".join(part for part in variant.split(",") if part not in common)
        title = name if len(experiments) == 1 else f"{experiment} {name}"
        rows.append([title, *(" ".join(seeds) for seeds in row.values())])
    columns = [Column(heading, right=False) for heading in ("cell", "done", "running", "left")]
    above = ", ".join(filter(None, shared))
    table = terminal(Table("", columns, rows, shared=f"Every cell: {above}" if above else ""), terminal_width())
    caption = f"{len(runs) - len(_left(runs))} of {len(runs)} runs done"
    if seconds and to_go:
        usual = sum(seconds) / len(seconds)
        caption += f", about {to_go * usual / 3600:.1f} hours to go at {usual / 60:.1f} minutes a run"
    return f"{table}\n\n{paragraph(caption, terminal_width())}"


@contextmanager
def _for_minutes(minutes: float | None) -> Iterator[None]:
    """Raise TimeIsUp inside the context when the minutes are over."""
    if minutes is None:
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(minutes * 60, 1e-3), 5.0)  # repeated, because a destructor may swallow it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
