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
        UserError: as :func:`normplugins.runs.folder.finished_run`, or a checkpoint to keep is missing or damaged.
    """
    config, done = folder.finished_run(directory)
    for name in checkpoints.scored_names(config.evaluate.average):
        if name == "last":
            continue
        path = directory / checkpoints.FILES[name]
        checkpoints.load(path)
        scored = done["files"]["checkpoints"][name]
        if scored["file"] == path.name and scored["sha256"] != sha256(path):
            raise UserError(f"{path} is not the checkpoint that {directory / folder.RECORD} names: nothing is deleted")
    patterns = (checkpoints.LAST, "*checkpoint*.pt.tmp", "crash.pt")
    others = [path for pattern in patterns for path in sorted(directory.glob(pattern))]
    return [*checkpoints.epoch_checkpoints(directory), *others]


def freed(paths: list[Path]) -> int:
    """Return the bytes that deleting files of a folder frees: none for a file with another hard link in the folder."""
    every = set(paths[0].parent.iterdir()) if paths else set()
    return disk_use(every) - disk_use(every - set(paths))


def clean(directory: Path) -> int:
    """Delete the files of :func:`unneeded` and return the bytes that this frees.

    Raises:
        UserError: as for :func:`unneeded`, or another process works in the folder.
    """
    with folder.locked(directory):
        paths = unneeded(directory)
        count = freed(paths)
        for path in paths:
            path.unlink()
    return count
