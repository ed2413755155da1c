"""Checkpoints that survive a kill at any moment, and checkpoint averaging."""

import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fairseq import utils
from fairseq.trainer import Trainer

from normplugins.compat import why_refused
from normplugins.training.checkpoint_seal import Identity, find_damage, find_difference, identity_of, seal
from normplugins.utils.errors import UserError
from normplugins.utils.files import whole_file
from normplugins.utils.steps import progress

LAST = "checkpoint_last.pt"
BEST = "checkpoint_best.pt"
AVERAGED = "checkpoint_averaged.pt"
RECALIBRATED = "checkpoint_recalibrated.pt"
FILES = {"averaged": AVERAGED, "last": LAST, "best": BEST}


def scored_names(average: int | None) -> list[str]:
    """Return the checkpoints of a run that are scored, as keys of ``FILES``; the first gives the recipe's score."""
    return ["averaged", "last", "best"] if average else ["best", "last"]


def scored(directory: Path, average: int | None, recalibrate: int | None = None) -> Path:
    """Return the path of the checkpoint that gives the recipe's score.

    It is the mean of the last ``average`` epochs, or the best checkpoint if ``average`` is None. With ``recalibrate``,
    it is the copy of this checkpoint with re-estimated running statistics.
    """
    return directory / (RECALIBRATED if recalibrate else FILES[scored_names(average)[0]])


def load(path: Path, run: Identity | None = None) -> dict[str, Any]:
    """Load a checkpoint on the CPU without running any code that the file names, and check its content.

    With ``run``, the checkpoint must belong to that run. Checkpoints of older versions do not name their run; they are
    accepted with one warning for each folder.

    Raises:
        UserError: the file names code to run, cannot be read, is refused by :func:`find_damage`, or belongs to another
            run. For the last checkpoint, the message says from which checkpoint to resume.
    """
    try:
        return _load(path, run)
    except UserError as error:
        raise UserError(f"{error}. {_resume_hint(path, run)}") from error.__cause__


def _load(path: Path, run: Identity | None) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {error}") from error
    except Exception as error:  # flipped bytes raise errors of many types
        raise UserError(f"{path} was refused: {why_refused(error)}") from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path} is not a checkpoint: it holds no model")
    extra = state.get("extra_state") or {}
    history = extra.get("history") or {} if isinstance(extra, dict) else None
    if not isinstance(history, dict):
        raise UserError(f"{path} is not a checkpoint: its extra_state is not one of fairseq")
    epoch = re.fullmatch(r"checkpoint(\d+)\.pt", path.name)
    if damage := find_damage(state):
        raise UserError(f"{path} was refused: {damage}")
    if epoch and history and int(epoch[1]) != history.get("epoch"):
        raise UserError(f"{path} was refused: it is the checkpoint of epoch {history.get('epoch')}")
    if run and (difference := find_difference(state, run)):
        raise UserError(f"{path} was refused: it belongs to another run ({difference})")
    if run and not identity_of(state):
        _warn_of_no_run(path.parent)
    return state


@cache
def _warn_of_no_run(directory: Path) -> None:
    text = f"warning: the checkpoints in {directory} name no run, so it is not checked whether they belong to this run"
    print(text, file=sys.stderr)  # standard output may be a translation


def _resume_hint(path: Path, run: Identity | None) -> str:
    """Return a sentence that names the newest sound checkpoint of an epoch, from which a run can go on."""
    if path.name != LAST:
        return "Use another checkpoint, or start the run again with force=true"
    for other in reversed(epoch_checkpoints(path.parent)):
        try:
            _load(other, run)
        except UserError:
            continue
        copy = shlex.join(["cp", str(other), str(path)])
        return f"To go on from the newest sound checkpoint: {copy}, then the same command"
    return "No other checkpoint in the folder is sound: force=true starts the run again"


def save(trainer: Trainer, path: Path, extra_state: dict[str, Any], also: Sequence[str] = ()) -> None:
    """Write the training state with :func:`write`; every rank must call it.

    At the end of an epoch, ``also`` should contain ``LAST``: if the process is killed before ``LAST`` is linked, the
    old ``LAST`` remains, and the run resumes from there.
    """
    trainer.consolidate_optimizer()  # the state of a sharded optimizer cannot be saved otherwise
    state = trainer.state_dict()
    state["extra_state"].update(extra_state)
    if trainer.is_data_parallel_master:
        write(utils.move_to_cpu(state), path, also)


def write(state: dict[str, Any], path: Path, also: Sequence[str] = ()) -> None:
    """Write a checkpoint to ``path`` and link it, or copy it if the file system has no links, to the names in ``also``.

    Each of these steps is atomic, and replaces a symbolic link, not the checkpoint that it points to. The folder is
    created if needed. The checkpoint is sealed: :func:`load` finds any change to its content.

    Raises:
        UserError: the disk is full or cannot be written; an earlier file of this name is unchanged.
    """
    seal(state)
    try:
        with whole_file(path, follow=False) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
        for name in also:
            with whole_file(path.with_name(name), follow=False) as temporary:
                try:
                    os.link(path, temporary)
                except OSError:
                    shutil.copyfile(path, temporary)
    except (UserError, OSError, RuntimeError) as error:
        raise UserError(f"could not write the checkpoint {path}: {error}. An earlier file is unchanged.") from error


def epoch_checkpoints(directory: Path, pattern: str = r"checkpoint(\d+)\.pt", bound: float = math.inf) -> list[Path]:
    """Return the checkpoints that match ``pattern``, by default all ends of epochs, up to ``bound``, oldest first."""
    found = [(re.fullmatch(pattern, path.name), path) for path in directory.glob("checkpoint*.pt")]
    return [path for number, path in sorted((int(match[1]), path) for match, path in found if match) if number <= bound]


def average(paths: Sequence[Path], destination: Path, run: Identity | None = None) -> None:
    """Write the mean of several checkpoints of one model, without optimizer state.

    Parameters and running statistics are averaged in float64; integer buffers are those of the last checkpoint.
    Averaged running statistics come from more tokens, but they are not exactly the statistics that the averaged weights
    would produce: see :mod:`normplugins.evaluation.reestimate`. PN's ``ema_gz`` is used only in the backward pass, so
    its mean has no effect.

    Raises:
        UserError: there is no checkpoint, one is refused or belongs to another ``run``, they hold different models, or
            the mean cannot be written.
    """
    if not paths:
        raise UserError(f"no checkpoint to average in {destination.parent}: the run has not finished an epoch")
    sums: dict[str, torch.Tensor] = {}
    state: dict[str, Any] = {}
    for path in progress(paths, "averaging checkpoints", "files"):
        state = load(path, run)
        shapes = {name: value.shape for name, value in state["model"].items()}
        if sums and shapes != {name: value.shape for name, value in sums.items()}:
            raise UserError(f"{path} holds another model than {paths[0]}: they cannot be averaged")
        for name, value in state["model"].items():
            sums[name] = sums.get(name, 0) + value.double() if value.is_floating_point() else value
    state["model"] = {
        name: (total / len(paths)).to(state["model"][name].dtype) if total.is_floating_point() else total
        for name, total in sums.items()
    }
    state.pop("last_optimizer_state", None)
    state["extra_state"] = {"averaged_from": [path.name for path in paths], "seal": {"run": identity_of(state)}}
    write(state, destination)


def averaged_from(path: Path, run: Identity | None = None) -> list[str]:
    """Return the names of the checkpoints that a mean was made from; an empty list if the file does not exist."""
    return list(load(path, run)["extra_state"].get("averaged_from", [])) if path.exists() else []
