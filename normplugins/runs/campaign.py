"""Runs the cells of a plan one after another until every one is published, and shows how far each of them is.

A plan lists cells in blocks; a cell is the overrides of an experiment. Within a block every cell is run with one seed
before the next seed begins, so that each seed is a whole comparison. A run that was started is resumed first, and a
published one is never repeated: a campaign that is stopped at any moment goes on with the same command.
"""

import re
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import yaml
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from normplugins.runs import folder, record
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config
from normplugins.runs.run import result_path, run
from normplugins.training.progress import LOG
from normplugins.utils.errors import NotFinite, UserError

_FIXED = ("seed=", "run_dir=", "force=", "dry_run=", "experiment=")
_UPDATE = re.compile(r"update +(\d+)/(\d+)")


class TimeIsUp(BaseException):
    """The campaign has used the minutes that it was given. No error: some handlers of errors repeat what failed."""


@dataclass(frozen=True)
class Planned:
    """One run of a plan: a cell with a seed, where it works and where its record is published."""

    experiment: str
    variant: str
    overrides: tuple[str, ...]
    seed: int
    run_dir: Path
    published: Path

    @property
    def diverged(self) -> Path:
        """The file that is published in the place of a record when the loss was not finite."""
        return self.published.with_suffix(".diverged.json")

    @property
    def state(self) -> str:
        """``done``, ``diverged``, ``started`` or ``left``."""
        if (record.read(self.published) or {}).get("format") == record.FORMAT:
            return "done"
        if self.diverged.exists():
            return "diverged"
        return "started" if (self.run_dir / folder.CONFIG).exists() else "left"

    @property
    def progress(self) -> float:
        """The share of the updates that a started run has made, from its log."""
        log = self.run_dir / LOG
        found = _UPDATE.findall(log.read_text(encoding="utf-8")) if log.exists() else []
        return int(found[-1][0]) / int(found[-1][1]) if found else 0.0


def read_plan(path: Path) -> list[Planned]:
    """The runs of a plan, in its order.

    Raises:
        UserError: the plan cannot be read, has an unknown key, or one of its cells cannot work.
    """
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as a plan: {' '.join(str(error).split())}") from error
    if not isinstance(plan, dict) or not {"blocks"} <= plan.keys() <= {"overrides", "blocks"}:
        raise UserError(f"{path}: a plan has the key blocks and, if need be, overrides")
    shared = plan.get("overrides", [])
    if not _is_list(shared, str) or not _is_list(plan["blocks"], dict):
        raise UserError(f"{path}: overrides is a list of texts, and blocks a list of blocks")
    composed = cache(partial(_composed, path))
    runs = []
    for block in plan["blocks"]:
        if block.keys() != {"experiment", "cells", "seeds"}:
            raise UserError(f"{path}: a block has the keys experiment, cells and seeds")
        if not _is_list(block["cells"], str) or not _is_list(block["seeds"], int):
            raise UserError(f"{path}: cells is a list of texts, and seeds a list of whole numbers")
        cells = [(block["experiment"], (*shared, *text.split())) for text in block["cells"]]
        runs += [_planned(composed(*cell), cell[1], seed) for seed in block["seeds"] for cell in cells]
    return list(dict.fromkeys(runs))


def _is_list(value: object, of: type) -> bool:
    return isinstance(value, list) and all(isinstance(each, of) for each in value)


def _composed(path: Path, experiment: str, overrides: tuple[str, ...]) -> DictConfig:
    if fixed := [word for word in overrides if word.lstrip("+~").startswith(_FIXED)]:
        raise UserError(f"{path}: '{fixed[0]}' is not for a plan to set: its blocks list experiments and seeds")
    config = compose_config(experiment, overrides)
    check(config)
    return config


def _planned(config: DictConfig, overrides: tuple[str, ...], seed: int) -> Planned:
    # The folder and the record of the composed config are those of one seed, which their names end with.
    run_dir, published = Path(config.run_dir), result_path(config)
    name = f"seed{seed}"
    return Planned(
        config.experiment,
        config.variant,
        overrides,
        seed,
        run_dir.with_name(name),
        published.with_name(f"{name}.json"),
    )


def campaign(plans: Sequence[Path], minutes: float | None = None, show_only: bool = False) -> bool:
    """Run what the plans have left, in their order, and publish each finished record.

    Args:
        plans: YAML files, such as ``configs/campaign/multi30k.yaml``.
        minutes: stop after so many minutes, in the middle of a run too; None: run to the end.
        show_only: print the table and run nothing.

    Returns:
        Whether nothing is left.

    Raises:
        UserError: a plan cannot work, another campaign is at work in this folder, or a run failed for another reason
            than a loss that is not finite.
    """
    # Plans share cells, which they may have written in other ways.
    runs = list({planned.published: planned for path in plans for planned in read_plan(path)}.values())
    console = Console()
    if show_only:
        console.print(overview(runs))
        return not _left(runs)
    failures: dict[Planned, str] = {}
    with folder.locked(Path("runs") / ".campaign"), _for_minutes(minutes):
        try:
            while left := [planned for planned in _left(runs) if planned not in failures]:
                planned = min(left, key=lambda each: each.state != "started")  # the first of them in the plan's order
                console.print(overview(runs, planned))
                try:
                    _carry_out(planned)
                except Exception as error:  # whatever it is, the runs after this one can still be made
                    if not isinstance(error, UserError):
                        traceback.print_exc()
                    failures[planned] = str(error)
                else:
                    if planned in _left(runs):
                        failures[planned] = f"it ended, and {planned.published} is not its record"
                if planned in failures:
                    message = f"{planned.variant} seed {planned.seed} failed: {failures[planned]}"
                    console.print(message, markup=False)
        except TimeIsUp:
            console.print(f"{minutes:g} minutes are up: the same command goes on from here")
    console.print(overview(runs))
    if failures:
        first, message = next(iter(failures.items()))
        raise UserError(f"runs that failed: {len(failures)}, the first {first.variant} seed {first.seed}: {message}")
    return not _left(runs)


def _left(runs: Sequence[Planned]) -> list[Planned]:
    return [planned for planned in runs if planned.state in ("started", "left")]


def _carry_out(planned: Planned) -> None:
    """Bring one run to its end; a loss that is not finite is a result, and published as one."""
    config = compose_config(planned.experiment, [*planned.overrides, f"seed={planned.seed}"])
    try:
        run(config)
    except NotFinite as error:
        outcome = {
            "experiment": planned.experiment,
            "variant": planned.variant,
            "seed": planned.seed,
            "diverged": str(error),
            "git_commit": record.git_commit(),
            "finished_at": record.now(),
        }
        record.write(planned.diverged, outcome)


def overview(runs: Sequence[Planned], running: Planned | None = None) -> Table:
    """A row for each cell with its seeds by their state, and the hours to go in the caption."""
    states = {planned: planned.state for planned in runs}
    seconds = [_seconds(planned) for planned, state in states.items() if state == "done"]
    usual = sum(seconds) / len(seconds) if seconds else None
    table = Table(title="Campaign", title_justify="left", caption_justify="left")
    for name in ("cell", "done", "running", "left"):
        table.add_column(name, overflow="fold")
    for name in dict.fromkeys((planned.experiment, planned.variant) for planned in runs):
        of_cell = [planned for planned in runs if (planned.experiment, planned.variant) == name]
        shown: dict[str, list[str]] = {"done": [], "running": [], "left": []}
        for planned in of_cell:
            state = states[planned]
            if state in ("done", "diverged"):
                shown["done"].append(f"{planned.seed}{' (diverged)' if state == 'diverged' else ''}")
            elif planned == running or state == "started":
                shown["running"].append(f"{planned.seed} ({planned.progress:.0%})")
            else:
                shown["left"].append(str(planned.seed))
        table.add_row(" ".join(name), *(" ".join(seeds) for seeds in shown.values()))
    left = _left(runs)
    hours = sum(1 - planned.progress for planned in left) * usual / 3600 if usual else None
    table.caption = f"{len(runs) - len(left)} of {len(runs)} runs done" + (
        f", about {hours:.1f} hours to go at {usual / 60:.1f} minutes a run" if hours and usual else ""
    )
    return table


def _seconds(planned: Planned) -> float:
    done = record.read(planned.published) or {}
    return float(done["training"]["wall_seconds"]) + float(done.get("decoding", {}).get("seconds", 0.0))


@contextmanager
def _for_minutes(minutes: float | None) -> Iterator[None]:
    """Inside, TimeIsUp is raised once the minutes are over."""
    if minutes is None:
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(minutes * 60, 1e-3), 5.0)  # again, should a destructor swallow it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
