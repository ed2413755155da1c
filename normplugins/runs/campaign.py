"""Runs the cells of a plan, one or several at a time, until all are published, and shows the progress of each.

A plan lists cells in blocks; a cell is a list of overrides of an experiment. Within a block, all cells run with one
seed before the next seed begins, so that each seed gives a complete comparison. A run that was started is resumed
first, and a published one is not repeated. A campaign that is stopped at any moment continues with the same command.
"""

import math
import signal
import time
import traceback
from collections.abc import Collection, Generator, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
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
from normplugins.utils.worker_processes import spawn_pool


class TimeIsUp(BaseException):
    """The campaign has used its minutes. This is no Exception, because handlers of exceptions may retry what failed."""


_Outcomes = Generator[tuple[Planned, BaseException | None], None, None]


def campaign(
    plans: Sequence[Path],
    minutes: float | None = None,
    show_only: bool = False,
    results: Path = Path("results"),
    jobs: int = 1,
) -> bool:
    """Run what is left of the plans, in their order, and publish each finished record.

    Runs in the folder of which another process works are skipped.

    Args:
        plans: YAML files, such as ``configs/campaign/multi30k.yaml``.
        minutes: stop after this time, even within a run; None: run to the end.
        show_only: print the table and run nothing.
        results: the folder in which the records are published.
        jobs: runs at the same time; with several, each is a process and prints to a file beside its folder.

    Returns:
        Whether nothing is left.

    Raises:
        UserError: a plan cannot work, another campaign runs in this folder, or a run failed for another reason than a
            loss that is not finite.
    """
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    runs = read_plan(*plans, results=results)
    if show_only:
        print(overview(runs))
        return not _left(runs)
    failures: dict[Planned, str] = {}
    out_of_time = False
    with folder.locked(Path("runs") / ".campaign"):
        left = sorted(_left(runs), key=lambda each: each.state != "started")  # otherwise in the plan's order
        carry_out = _one_by_one if jobs == 1 else partial(_side_by_side, jobs)
        with closing(carry_out(runs, left, results, end)) as outcomes:
            for planned, error in outcomes:
                if error is None and planned in _left(runs):
                    error = UserError(f"it ended, and {planned.published} is not its record")
                if isinstance(error, TimeIsUp):
                    out_of_time = True
                elif isinstance(error, InUse):  # the other process publishes the record
                    print(f"{planned} skipped: {error}")
                elif error:  # a failure of any kind must not stop the other runs
                    if not isinstance(error, UserError):
                        traceback.print_exception(error)
                    failures[planned] = str(error)
                    print(f"{planned} failed: {error}")
    if out_of_time:
        print(f"{minutes:g} minutes are up: the same command goes on from here")
    print(overview(runs))
    if failures:
        first, message = next(iter(failures.items()))
        raise UserError(f"runs that failed: {len(failures)}, the first {first}: {message}")
    return not _left(runs)


def _one_by_one(runs: Sequence[Planned], left: Sequence[Planned], results: Path, end: float) -> _Outcomes:
    for planned in left:
        print(overview(runs, [planned]), flush=True)
        try:
            _carry_out(planned, results, end)
            yield planned, None
        except TimeIsUp as error:
            yield planned, error
            return
        except Exception as error:
            yield planned, error


def _side_by_side(jobs: int, runs: Sequence[Planned], left: Sequence[Planned], results: Path, end: float) -> _Outcomes:
    print(overview(runs, left[:jobs]), flush=True)
    with spawn_pool(jobs) as pool:
        started = {pool.submit(_carry_out_quietly, planned, results, end): planned for planned in left}
        for future in as_completed(started):
            error = future.exception()
            print(f"{started[future]}: {'ended' if error is None else 'stopped'}", flush=True)
            yield started[future], error


def _carry_out_quietly(planned: Planned, results: Path, end: float) -> None:
    output = planned.run_dir.with_suffix(".log")
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("a", encoding="utf-8", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        _carry_out(planned, results, end)


def _left(runs: Sequence[Planned]) -> list[Planned]:
    return [planned for planned in runs if planned.state in ("started", "left")]


def _carry_out(planned: Planned, results: Path, end: float) -> None:
    """Complete one run and publish it. A loss that is not finite is a result, and is published as one."""
    cell = {key: planned.settings[key] for key in ("experiment", "variant", "seed")}
    with _until(end):
        try:
            run(compose_config(cell["experiment"], [*planned.overrides, f"seed={cell['seed']}"]))
        except NotFinite as error:
            outcome = {"diverged": str(error), "git_commit": record.git_commit(), "finished_at": record.now()}
            write_json(planned.diverged, cell | outcome)
            return
        publish(planned.run_dir, results, force=True)  # what is published there is not the record of this plan


def overview(runs: Sequence[Planned], running: Collection[Planned] = ()) -> str:
    """Return a table with the seeds of each cell by their state, and a line with the hours left, one run at a time."""
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
    if seconds and to_go:
        usual = sum(seconds) / len(seconds)
        caption += f", about {to_go * usual / 3600:.1f} hours to go at {usual / 60:.1f} minutes a run"
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
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)  # repeated, because a destructor may swallow it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
