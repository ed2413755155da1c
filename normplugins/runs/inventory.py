"""Finds runs on disk, and reads their states from config, log and record. Nothing here imports torch."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from filecmp import cmp
from pathlib import Path
from typing import Any

import yaml

from normplugins.training.progress import LOG
from normplugins.utils.errors import UserError
from normplugins.utils.json_file import read_json
from normplugins.utils.locks import is_held

CONFIG = "config.yaml"
RECORD = "record.json"
DIVERGED = ".diverged.json"
"""The suffix of the file that is published for a run that diverged."""
STATES = ("running", "stopped", "finished", "published", "diverged", "damaged")
_UPDATE = re.compile(r"update +(\d+)(?:/(\d+))?")
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class FoundRun:
    """A run in a folder.

    Attributes:
        cell: the norm and the settings that differ from the experiment's.
        state: one of ``STATES``. *running*: a process holds the lock; *stopped*: the run has no record; *finished*: it
            has a record; *published*: the record is published too; *diverged*: there is no record, and a campaign
            published that the loss was not finite; *damaged*: the config or the record cannot be read, or the record
            was edited.
        when: time of the record or, without one, of the last change of the config or the log.
        bytes: size of the files in the folder; a file with several hard links counts once.
        updates: number of updates made.
        of: maximum number of updates; None if only patience ends training, or if the run has a record.
        metric: name of the score's metric; empty if there is no score.
        score: the score of the checkpoint that the recipe is scored by, on the whole test set.
    """

    folder: Path
    experiment: str
    cell: str
    norm: str
    seed: int
    state: str
    when: datetime
    bytes: int = 0
    updates: int = 0
    of: int | None = None
    metric: str = ""
    score: float | None = None

    def plain(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold."""
        return asdict(self) | {"folder": str(self.folder), "when": self.when.isoformat(timespec="seconds")}


def published_path(results: Path, experiment: str, cell: str, seed: int) -> Path:
    """Return the path of a published record."""
    return results / "runs" / experiment / cell / f"seed{seed}.json"


def diverged_path(published: Path) -> Path:
    """Return the path of the file that is published instead of a record if the loss was not finite."""
    return published.with_suffix(DIVERGED)


def split_diverged(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Split published files into the records of completed runs and the files of runs that diverged.

    The file of a run that diverged is left out if the same cell and seed also has a record.
    """
    paths = list(paths)
    ended = [path for path in paths if not path.name.endswith(DIVERGED)]
    replaced = {diverged_path(path) for path in ended}
    return ended, [path for path in paths if path.name.endswith(DIVERGED) and path not in replaced]


def find_runs(root: Path, results: Path) -> list[FoundRun]:
    """Return the runs under ``root`` by experiment, cell and seed; ``results`` may be missing.

    Raises:
        UserError: there is no folder ``root``.
    """
    found = [run for folder in _run_folders(root) if (run := found_run(folder, results))]
    return sorted(found, key=lambda run: (run.experiment, run.cell, run.seed, run.folder))


def finished_folders(root: Path) -> list[Path]:
    """Return the folders under ``root`` with a record in which no process works; raises as :func:`find_runs` does."""
    return sorted(
        folder for folder in _run_folders(root) if (folder / RECORD).exists() and not is_held(folder / "lock")
    )


def _run_folders(root: Path) -> Iterator[Path]:
    """Yield the folders under ``root`` that hold a config."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: create it with normplugins run, or name another with --runs DIR")
    for folder, folders, files in os.walk(root):
        if CONFIG in files:
            folders.clear()  # the subfolders of a run, such as wandb's, hold no runs
            yield Path(folder)


def found_run(folder: Path, results: Path) -> FoundRun | None:
    """Return the run in a folder, or None if the config there is not the config of a run."""
    try:
        run = _read(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError, UserError):
        match = re.search(r"([^/]+)/([^/]+)/seed(\d+)$", folder.resolve().as_posix())  # only its path is known
        experiment, cell, seed = match.groups() if match else ("", "", "0")
        run = FoundRun(folder, experiment, cell, cell.partition(",")[0], int(seed), "damaged", _last_change(folder))
    if run is None:
        return None
    state, published = run.state, published_path(results, run.experiment, run.cell, run.seed)
    if is_held(folder / "lock"):
        state = "running"
    elif state == "finished" and published.is_file() and cmp(folder / RECORD, published, shallow=False):
        state = "published"
    elif state == "stopped" and diverged_path(published).is_file():
        state = "diverged"
    return replace(run, state=state, bytes=disk_use(folder.rglob("*")))


def updates_made(folder: Path) -> tuple[int, int | None]:
    """Return how many updates a run has made according to its log, and the maximum number, if there is one."""
    log = folder / LOG
    found = _UPDATE.findall(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else []
    totals = [int(total) for _, total in found if total]  # lines about stopping and resuming have no total
    return (int(found[-1][0]) if found else 0, totals[-1] if totals else None)


def disk_use(paths: Iterable[Path]) -> int:
    """Return the size of files in bytes. A file with several hard links counts once."""
    sizes = {}
    for path in paths:
        with suppress(FileNotFoundError):  # a run may rename or delete files at the same time
            found = path.lstat()
            if stat.S_ISREG(found.st_mode):
                sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


def _read(folder: Path) -> FoundRun | None:
    config = yaml.load((folder / CONFIG).read_text(encoding="utf-8"), _YAML)
    ours = {"experiment", "variant", "seed", "norm", "task"} <= config.keys()
    record = read_json(folder / RECORD, "")
    if record is None and not ours:
        return None
    if record is None:
        name = config["experiment"], config["variant"], config["norm"]["name"]
        updates, of = updates_made(folder)
        return FoundRun(folder, *name, int(config["seed"]), "stopped", _last_change(folder), updates=updates, of=of)
    name = record["experiment"], record["variant"], record["norm"]
    when, updates = datetime.fromisoformat(record["finished_at"]), record["training"]["updates"]
    metric, score = next(iter(record["metrics"].items()), ("", {"score": None}))
    return FoundRun(
        folder, *name, int(record["seed"]), "finished", when, updates=updates, metric=metric, score=score["score"]
    )


def _last_change(folder: Path) -> datetime:
    """Return when a run began or last wrote to its log."""
    times = [path.stat().st_mtime for path in (folder / CONFIG, folder / LOG) if path.exists()]
    return datetime.fromtimestamp(max(times, default=0.0), timezone.utc)
