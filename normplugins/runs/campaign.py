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
from pathlib import Path
from statistics import mean
from types import FrameType
from typing import NoReturn

from normplugins.runs import folder, record
from normplugins.runs.campaign_plan import Planned, read_plan
from normplugins.runs.compose import compose_config
from normplugins.runs.publish import publish
from normplugins.runs.run import run
from normplugins.utils.errors import InUse, NotFinite, UserError
from normplugins.utils.json_file import write_json
from normplugins.utils.terminal import Column, Table, paragraph, terminal, terminal_width

UNFINISHED = ("started", "left")
"""The states in which a campaign carries out a planned run."""


class TimeIsUp(BaseException):
    """Raised at the campaign's time limit. It is a BaseException, so that ``except Exception`` does not catch it."""


def campaign(plans: Sequence[Path], minutes: float | None, show_only: bool, results: Path, force: bool) -> bool:
    """Complete the unfinished runs of the plans in order, started ones first, and publish each record.

    A run is skipped if another process is working in its folder.

    Args:
        plans: YAML files, such as ``configs/campaign/multi30k.yaml``.
        minutes: stop after this time, even within a run; None: run to the end.
        show_only: print the table and run nothing.
        results: the folder in which the records are published.
        force: run and publish even if the code is not committed.

    Returns:
        True if no run is left.

    Raises:
        UserError: a plan is invalid, the code is not committed, or a run failed for a reason other than a loss that is
            not finite.
    """
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    runs = read_plan(*plans, results=results)
    if show_only:
        print(overview(runs))
        return not _left(runs)
    if not force and (reason := record.uncommitted(record.git_commit())):
        raise UserError(f"the records would come from {reason}: commit it, or run the campaign with --force")
    failures: dict[Planned, str] = {}
    for planned in sorted(_left(runs), key=lambda each: each.state != "started"):  # stable: then the plan's order
        try:
            if planned.state not in UNFINISHED:  # another campaign has published it in the meantime
                continue
            print(_overview_or_error(runs, planned), flush=True)
            _run_and_publish(planned, results, end, force)
            if planned.state in UNFINISHED:
                raise UserError(f"the run ended, but {planned.published} does not hold its record")
        except TimeIsUp:
            print(f"the limit of {minutes:g} minutes is reached: run the same command to continue")
            break
        except InUse as error:  # the other process publishes the record
            print(f"{planned} skipped: {error}")
        except Exception as error:  # a failure of any kind must not stop the other runs
            if not isinstance(error, UserError):
                traceback.print_exc()
            failures[planned] = str(error)
            print(f"{planned} failed: {error}")
    print(overview(runs))
    if failures:
        first, message = next(iter(failures.items()))
        raise UserError(f"runs that failed: {len(failures)}, the first {first}: {message}")
    return not _left(runs)


def _left(runs: Sequence[Planned]) -> list[Planned]:
    return [planned for planned in runs if planned.state in UNFINISHED]


def _run_and_publish(planned: Planned, results: Path, end: float, force: bool) -> None:
    """Complete one run and publish its record, or publish that its loss was not finite."""
    cell = {key: planned.settings[key] for key in ("experiment", "variant", "seed")}
    with _until(end):
        try:
            run(compose_config(cell["experiment"], [*planned.overrides, f"seed={cell['seed']}"]))
        except NotFinite as error:
            outcome = {"diverged": str(error), "git_commit": record.git_commit(), "finished_at": record.now()}
            write_json(planned.diverged, cell | outcome | {"config": record.without_absolute_paths(planned.settings)})
            for old in planned.published.parent.glob(f"seed{cell['seed']}.*"):
                if old != planned.diverged:  # record and translations of a run with other settings
                    old.unlink()
            return
        with folder.locked(planned.run_dir):  # another campaign that finds the run complete publishes it too
            publish(planned.run_dir, results, force, replace=True)  # any record there is of a run with other settings


def overview(runs: Sequence[Planned], running: Collection[Planned] = ()) -> str:
    """Return a table of each cell's seeds by state, and a line that estimates the hours left with one run at a time."""
    cells: dict[tuple[str, str], dict[str, list[str]]] = {}
    took: dict[str, list[float]] = defaultdict(list)  # seconds of each finished run, by experiment
    to_go: dict[str, float] = defaultdict(float)  # number of runs left, started ones in part, by experiment
    for planned in runs:
        experiment, variant, seed = (str(planned.settings[key]) for key in ("experiment", "variant", "seed"))
        row = cells.setdefault((experiment, variant), {"done": [], "running": [], "left": []})
        if done := planned.record:
            row["done"].append(seed)
            decoding = done.get("decoding", {}).get("seconds", 0.0)
            took[experiment].append(done["training"]["wall_seconds"] + decoding)
        elif planned.state == "diverged":
            row["done"].append(f"{seed} (diverged)")
        else:
            to_go[experiment] += 1 - planned.progress
            if planned in running or planned.state == "started":
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
    if to_go and to_go.keys() <= took.keys():
        usual = {experiment: mean(took[experiment]) for experiment in to_go}
        hours = sum(count * usual[experiment] for experiment, count in to_go.items()) / 3600
        each = ", ".join(f"{seconds / 60:.1f} minutes a run of {experiment}" for experiment, seconds in usual.items())
        caption += f", about {hours:.1f} hours to go at {each}, one at a time"
    return f"{table}\n\n{paragraph(caption, terminal_width())}"


def _overview_or_error(runs: Sequence[Planned], running: Planned) -> str:
    """Return the table, or why it cannot be made: a damaged record of another run must not stop this one."""
    try:
        return overview(runs, [running])
    except UserError as error:
        return str(error)


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
