"""Checkpoints that survive a kill at any moment, and their mean over the last epochs."""

import contextlib
import os
import pickle
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from fairseq.trainer import Trainer

from normplugins.utils.errors import UserError

LAST = "checkpoint_last.pt"
BEST = "checkpoint_best.pt"
AVERAGED = "checkpoint_averaged.pt"
RECALIBRATED = "checkpoint_recalibrated.pt"
FILES = {"averaged": AVERAGED, "last": LAST, "best": BEST}


def scored_names(average: int | None) -> list[str]:
    """The checkpoints that a run is scored by, as ``FILES`` names them: first the one that its recipe goes by."""
    return ["averaged", "last", "best"] if average else ["best", "last"]


def scored(directory: Path, average: int | None, recalibrate: int | None = None) -> Path:
    """The checkpoint that a run is scored by: the mean of its last ``average`` epochs', or the best one for None.

    With ``recalibrate``, the one made from that, whose running statistics were measured anew.
    """
    return directory / (RECALIBRATED if recalibrate else AVERAGED if average else BEST)


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU, without running anything that the file names.

    Raises:
        UserError: the file names code to run, is damaged, or cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} was refused: {why_refused(error)}") from error
    except (OSError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read as a checkpoint: {(str(error) or 'it is empty').splitlines()[0]}"
        ) from error
    return state


def why_refused(error: pickle.UnpicklingError) -> str:
    """What PyTorch found in a file that it would not unpickle (its own text advises to unpickle all the same)."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        return f"it names {named.group(1)}, code that would run on loading. Use checkpoints whose origin you know"
    return "it is damaged or no checkpoint"


def save(trainer: Trainer, path: Path, extra_state: dict[str, Any], also: Sequence[str] = ()) -> None:
    """Write the whole training state to ``path`` and make it known under the names in ``also``, each step atomic.

    ``LAST`` is best named in ``also``, after the file that it stands for exists: a kill in between leaves the old
    ``LAST``, and the run goes on from there.

    Raises:
        UserError: the disk is full or cannot be written; what stood there before is untouched.
    """
    temporary = path.with_name(path.name + ".tmp")  # the name fairseq writes to before it renames
    trainer.consolidate_optimizer()  # what a sharded optimizer needs before its state can be saved
    try:
        trainer.save_checkpoint(str(path), extra_state)
        if trainer.is_data_parallel_master:
            for name in also:
                _link(path, path.with_name(name))
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"could not write the checkpoint {path}: {error}. The one before it is untouched.") from error


def _link(source: Path, target: Path) -> None:
    """Give ``source`` a second name, replacing what had it, with no moment in which the name is gone."""
    temporary = target.with_name(target.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, temporary)
    temporary.replace(target)


def epoch_checkpoints(directory: Path) -> list[Path]:
    """The end-of-epoch checkpoints, oldest first."""
    found = [(re.fullmatch(r"checkpoint(\d+)\.pt", path.name), path) for path in directory.glob("checkpoint*.pt")]
    return [path for _, path in sorted((int(match.group(1)), path) for match, path in found if match)]


def keep_newest(directory: Path, count: int) -> None:
    """Delete all but the newest ``count`` end-of-epoch checkpoints."""
    for path in epoch_checkpoints(directory)[:-count]:
        path.unlink()


def average(paths: Sequence[Path], destination: Path) -> None:
    """Write the mean of several checkpoints' models, as a checkpoint without optimizer state.

    Parameters are averaged in float64. So are the norms' running statistics, on purpose: psi^2, mean and variance are
    each a mean over tokens already, and their mean over several epochs is that of more tokens, less noisy than any one;
    no other rule needs no data. It is not exactly what the averaged weights would measure: ``evaluate.recalibrate``
    lets them (:mod:`normplugins.evaluation.recalibrate`). The variance is the mean of the variances about each
    checkpoint's own mean. PN's ``ema_gz`` belongs to the backward pass, so that its mean is never read. Counts, all
    integer buffers, are the last checkpoint's.

    Raises:
        UserError: there is no checkpoint to average, they are not of one model, or the mean cannot be written.
    """
    if not paths:
        raise UserError(f"no checkpoint to average in {destination.parent}: the run has not finished an epoch")
    sums: dict[str, torch.Tensor] = {}
    state: dict[str, Any] = {}
    for path in paths:
        state = load(path)
        if sums and sums.keys() != state["model"].keys():
            raise UserError(f"{path} holds another model than {paths[0]}: cannot average them")
        for name, value in state["model"].items():
            sums[name] = sums.get(name, 0) + value.double() if value.is_floating_point() else value
    state["model"] = {
        name: (total / len(paths)).to(state["model"][name].dtype) if total.is_floating_point() else total
        for name, total in sums.items()
    }
    state.pop("last_optimizer_state", None)
    state["extra_state"] = {"averaged_from": [path.name for path in paths]}
    write(state, destination)


def write(state: dict[str, Any], destination: Path) -> None:
    """Write a checkpoint's content, all of it or nothing; its folder is made.

    Raises:
        UserError: the disk is full or cannot be written; what stood there before is untouched.
    """
    temporary = destination.with_name(destination.name + ".tmp")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, temporary)
        temporary.replace(destination)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"could not write the checkpoint {destination}: {error}") from error


def averaged_from(path: Path) -> list[str]:
    """The names of the checkpoints that an averaged one was made from; empty when there is no such file."""
    if not path.exists():
        return []
    state = load(path)
    return list(state["extra_state"]["averaged_from"])
