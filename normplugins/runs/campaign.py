"""Runs the cells of a plan one after another until all are published, and shows the progress of each.

A plan lists cells in blocks; a cell is a list of overrides of an experiment. Within a block, every cell runs with one
seed before any cell runs with the next, so that each seed gives a complete comparison. Interrupted runs are resumed
first, and published runs are skipped. A campaign can be stopped at any time; the same command continues it. Several
campaigns may share a folder and train different runs of one plan at the same time.
"""

import math
import signal
import time
import traceback
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
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
from normplugins.runs.settings import RunSettings, declared
from normplugins.utils.errors import InUse, NotFinite, UserError
from normplugins.utils.json_file import read_json, write_json
from normplugins.utils.settings import invalid_value
from normplugins.utils.terminal import Column, Table, paragraph, terminal, terminal_width

_FIXED = ("seed=", "run_dir=", "force=", "dry_run=", "experiment=", "hardware=slurm")
_REMEDY = "restore it, or delete it to run that seed again"
_SEEDS = ("seed", "common.seed", "task.seed")  # the keys of a config that hold the seed of the run


class TimeIsUp(BaseException):
    """Raised at the campaign's time limit. It is a BaseException, so that ``except Exception`` does not catch it."""


@dataclass(frozen=True, eq=False)
class Planned:
    """One run of a plan: its overrides except the seed, its flat config, its folder and the path of its record."""

    overrides: tuple[str, ...]
    settings: dict[str, Any]
    run_dir: Path
    record_path: Path

    def __str__(self) -> str:
        return "{experiment} {variant} seed {seed}".format(**self.settings)

    @property
    def diverged(self) -> Path:
        """The path of the file that is published instead of a record if the loss was not finite."""
        return inventory.diverged_path(self.record_path)

    @property
    def record(self) -> dict[str, Any] | None:
        """The published record, if it has the current format and the config of this run."""
        found = read_json(self.record_path, _REMEDY) or {}
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
    def unfinished(self) -> bool:
        """Whether a campaign carries out this run."""
        return self.state in ("started", "left")

    @property
    def progress(self) -> float:
        """The fraction of its updates that a started run has made, according to its log."""
        updates, of = inventory.updates_made(self.run_dir)
        return updates / of if of else 0.0


def read_plan(*paths: Path, results: Path = Path("results")) -> list[Planned]:
    """Read the runs of one or more plans in order; a run that several blocks list is read once.

    ``results`` is the folder in which their records are published.

    Raises:
        UserError: a plan cannot be read or has an unknown key, or the config of one of its cells is invalid.
    """
    # Two plans may write the same cell differently, so runs are compared by the record they publish.
    return list({planned.record_path: planned for path in paths for planned in _read(path, results)}.values())


def _read(path: Path, results: Path) -> Iterator[Planned]:
    plan = read_plan_file(path)

    @cache
    def composed(experiment: str, overrides: tuple[str, ...]) -> tuple[DictConfig, dict[str, Any]]:
        if fixed := [word for word in overrides if word.lstrip("+~").startswith(_FIXED)]:
            raise UserError(
                f"{path}: '{fixed[0]}' cannot be set in a plan: its blocks name experiments and seeds, and a campaign "
                "completes each run itself, in the run's own folder"
            )
        config = compose_config(experiment, overrides)
        check(config)
        return config, dict(flatten(config))

    for block in plan.blocks:
        for seed in block.seeds:
            if message := invalid_value(dict(declared(RunSettings))["seed"], seed):
                raise UserError(f"{path}: {message}")
            for cell in block.cells:
                overrides = (*plan.overrides, *cell.split())
                config, settings = composed(block.experiment, overrides)
                settings = settings | {key: seed for key in _SEEDS if key in settings}
                run_dir = Path(config.run_dir).with_name(f"seed{seed}")
                published = inventory.published_path(results, config.experiment, config.variant, seed)
                yield Planned(overrides, settings, run_dir, published)


def campaign(plans: Sequence[Path], minutes: float | None, results: Path, force: bool) -> bool:
    """Complete the unfinished runs of the plans in order, started ones first, and publish each record in ``results``.

    A run is skipped if another process is working in its folder. The campaign stops after this number of minutes, even
    within a run. With ``force``, it runs and publishes even if the code is not committed. Returns True if no run is
    left.

    Raises:
        UserError: a plan is invalid, the code is not committed, or a run failed for a reason other than a loss that is
            not finite.
    """
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    runs = read_plan(*plans, results=results)
    if not force and (reason := record.uncommitted(record.git_commit())):
        raise UserError(f"the records would come from {reason}: commit it, or run the campaign with --force")
    failures: list[str] = []
    for planned in sorted(_left(runs), key=lambda each: each.state != "started"):  # stable: then the plan's order
        try:
            if not planned.unfinished:  # another campaign has published it in the meantime
                continue
            try:
                print(overview(runs, [planned]), flush=True)
            except UserError as error:  # a damaged record of another run must not stop this one
                print(error)
            _run_and_publish(planned, results, end, force)
            if planned.unfinished:
                raise UserError(f"the run ended, but {planned.record_path} does not hold its record")
        except TimeIsUp:
            print(f"the limit of {minutes:g} minutes is reached: run the same command to continue")
            break
        except InUse as error:  # the other process publishes the record
            print(f"{planned} skipped: {error}")
        except Exception as error:  # a failure of any kind must not stop the other runs
            if not isinstance(error, UserError):
                traceback.print_exc()
            failures.append(f"{planned}: {error}")
            print(f"{planned} failed: {error}")
    print(overview(runs))
    if failures:
        raise UserError(f"runs that failed: {len(failures)}, the first {failures[0]}")
    return not _left(runs)


def _left(runs: Sequence[Planned]) -> list[Planned]:
    return [planned for planned in runs if planned.unfinished]


def _run_and_publish(planned: Planned, results: Path, end: float, force: bool) -> None:
    """Complete one run and publish its record, or publish that its loss was not finite."""
    cell = {key: planned.settings[key] for key in ("experiment", "variant", "seed")}
    with _until(end):
        try:
            run(compose_config(cell["experiment"], [*planned.overrides, f"seed={cell['seed']}"]))
        except NotFinite as error:
            outcome = {"diverged": str(error), "git_commit": record.git_commit(), "finished_at": record.now()}
            write_json(planned.diverged, cell | outcome | {"config": record.without_absolute_paths(planned.settings)})
            for old in planned.record_path.parent.glob(f"seed{cell['seed']}.*"):
                if old != planned.diverged:  # record and translations of a run with other settings
                    old.unlink()
            return
        with folder.locked(planned.run_dir):  # another campaign that finds the run complete publishes it too
            publish(planned.run_dir, results, force, replace=True)  # an existing record has other settings


def overview(runs: Sequence[Planned], running: Collection[Planned] = ()) -> str:
    """Return a table of each cell's seeds by state, and a line that estimates the hours left with one run at a time."""
    cells: dict[tuple[str, str], dict[str, list[str]]] = {}
    took: dict[str, list[float]] = defaultdict(list)  # seconds of each finished run, by experiment
    to_go: dict[str, float] = defaultdict(float)  # number of runs left, started ones in part, by experiment
    ended = 0
    for planned in runs:
        experiment, variant, seed = (str(planned.settings[key]) for key in ("experiment", "variant", "seed"))
        row = cells.setdefault((experiment, variant), {"done": [], "running": [], "left": []})
        done = planned.record  # read once, because reading it computes its hash
        state = "done" if done else planned.state
        ended += state in ("done", "diverged")
        if done:
            row["done"].append(seed)
            decoding = done.get("decoding", {}).get("seconds", 0.0)
            took[experiment].append(done["training"]["wall_seconds"] + decoding)
        elif state == "diverged":
            row["done"].append(f"{seed} (diverged)")
        else:
            to_go[experiment] += 1 - planned.progress
            if planned in running or state == "started":
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
    caption = f"{ended} of {len(runs)} runs done"
    if to_go and to_go.keys() <= took.keys():
        usual = {experiment: mean(took[experiment]) for experiment in to_go}
        hours = sum(count * usual[experiment] for experiment, count in to_go.items()) / 3600
        each = ", ".join(f"{seconds / 60:.1f} minutes per run of {experiment}" for experiment, seconds in usual.items())
        caption += f", about {hours:.1f} hours left with one run at a time, at {each}"
    return f"{table}\n\n{paragraph(caption, terminal_width())}"


@contextmanager
def _until(end: float) -> Iterator[None]:
    """Raise TimeIsUp in the context when ``time.monotonic()`` reaches ``end``; training saves a checkpoint first."""
    if end == math.inf:
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise TimeIsUp

    if (seconds := end - time.monotonic()) <= 0:
        raise TimeIsUp
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)  # repeats, because a destructor may swallow the exception
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
