"""Deletes the checkpoints that a finished run no longer needs."""

from pathlib import Path

from normplugins.runs import folder
from normplugins.runs.inventory import disk_use
from normplugins.training import checkpoints
from normplugins.utils.errors import UserError
from normplugins.utils.files import sha256


def unneeded(directory: Path) -> list[Path]:
    """Return the files that a finished run no longer needs: checkpoints to resume from, and files of a killed process.

    The averaged and the best checkpoint are kept. Both are loaded first, so that nothing is deleted if one is damaged.

    Raises:
        UserError: the folder holds no finished run, or a checkpoint to keep is missing or damaged.
    """
    config, done = folder.finished_run(directory)
    scored = done.get("files", {}).get("checkpoints", {})  # records of older versions do not name them
    for name in checkpoints.scored_names(config.evaluate.average):
        if name == "last":
            continue
        path = directory / checkpoints.FILES[name]
        checkpoints.load(path)
        entry = scored.get(name, {})
        if entry.get("file") == path.name and entry["sha256"] != sha256(path):
            raise UserError(f"{path} is not the checkpoint that {directory / folder.RECORD} names: nothing is deleted")
    return _unneeded(directory)


def freed(paths: list[Path]) -> int:
    """Return the bytes freed by deleting these files of one folder; a file with another hard link in it frees none."""
    every = set(paths[0].parent.iterdir()) if paths else set()
    return disk_use(every) - disk_use(every - set(paths))


def clean(directory: Path) -> int:
    """Delete the files of :func:`unneeded` and return the bytes that this frees.

    Raises:
        UserError: the folder holds no finished run, or another process works in it.
    """
    with folder.locked(directory):
        folder.finished_run(directory)
        paths = _unneeded(directory)
        count = freed(paths)
        for path in paths:
            path.unlink()
    return count


def _unneeded(directory: Path) -> list[Path]:
    last = directory / checkpoints.LAST
    left_over = (path for pattern in ("checkpoint*.pt.tmp", "crash.pt") for path in sorted(directory.glob(pattern)))
    return [*checkpoints.epoch_checkpoints(directory), *([last] if last.exists() else []), *left_over]
