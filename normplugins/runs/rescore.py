"""Scores a trained run again, by another checkpoint, search or windows; its record stays as it is."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from normplugins.corpora import corpus_config, prepare
from normplugins.evaluation.recalibrate import recalibrated
from normplugins.evaluation.tasks import kind_of
from normplugins.runs import folder
from normplugins.runs.cell import flatten
from normplugins.runs.check import check_values
from normplugins.runs.compose import check_types
from normplugins.runs.run import set_threads
from normplugins.runs.scoring import output_name
from normplugins.training import checkpoints
from normplugins.utils.errors import UserError

CHECKPOINT = "evaluate.checkpoint"  # of this command alone: a run's own config has no such key, and no cell is named so
CHANGEABLE = (CHECKPOINT, "hardware.threads", "common.cpu", "data_dir")


def rescore(
    directory: Path, overrides: Sequence[str] = (), save: Path | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Score the test set with the model of a run's checkpoint and print the scores.

    A run can be scored before its end; that it may not have ended is said.

    Args:
        directory: the run's folder, with its ``config.yaml`` and the checkpoint to score.
        overrides: changes to the ``evaluate`` and ``hardware`` sections, such as ``evaluate.beam=4`` for a translation
            run or ``evaluate.context=16`` for a language model. ``evaluate.checkpoint`` says which checkpoint is
            scored: ``averaged``, ``last`` or ``best``; by default the one that the recipe is scored by.
        save: a folder, made if need be, for what else a run leaves: the translations, or each token's log-probability.

    Returns:
        By test set, the metrics as they would stand in a record.

    Raises:
        UserError: the folder does not hold the checkpoint to score, or an override is not of these sections or does not
            fit the model.
    """
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    path = directory / folder.CONFIG
    if not path.exists():
        raise UserError(f"{directory} holds no finished run ({path.name} is needed)")
    config = OmegaConf.create(path.read_text(encoding="utf-8"))
    assert isinstance(config, DictConfig)
    kind = kind_of(config.task._name)
    changeable = (*kind.RESCORABLE, *CHANGEABLE)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key not in changeable:
            raise UserError(
                f"'{override}' does not change how a trained run is scored. KEY=VALUE of: {', '.join(changeable)}"
            )
        try:
            OmegaConf.update(config, key, OmegaConf.create(f"value: {value}").value)
        except YAMLError as error:
            raise UserError(f"'{override}' cannot be read: {' '.join(str(error).split())}") from error
    average = config.evaluate.average
    name = config.evaluate.pop("checkpoint", None) or checkpoints.scored_names(average)[0]
    found = find_checkpoint(directory, name, average)
    try:
        check_types(config)
    except OmegaConfBaseException as error:
        raise UserError(str(error)) from error
    OmegaConf.set_struct(config, True)  # not before: the config of an older run lacks the newer keys
    check_values(config)
    if save:
        try:
            save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"nothing can be saved in {save}: {error.strerror}") from error
    set_threads(config)
    corpus = prepare(corpus_config(config.corpus), Path(config.data_dir))
    with tempfile.TemporaryDirectory() as scratch:
        folder_of_outputs = save or Path(scratch)
        checkpoint = folder_of_outputs / checkpoints.FILES[name] if len(found) > 1 else found[0]
        if len(found) > 1:
            checkpoints.average(found, checkpoint)
        scored = recalibrated(config, checkpoint, corpus.bin_dir, folder_of_outputs)
        scores, speed = kind.evaluate(config, scored, corpus, folder_of_outputs / output_name(kind, name, average))
    if not (directory / folder.RECORD).exists():
        print(f"{directory} has no record: its run may not have ended, and this is {checkpoint.name} as it is now")
    for metric, value in scores.get("test", {}).items():
        print(f"{metric}: {kind.describe(value)}\n  {value['signature']}")
    for test_set in [each for each in scores if each != "test"]:
        print(f"{test_set}: {kind.brief(scores[test_set])}")
    if label := kind.label(dict(flatten(config))):
        print(f"  {label}")
    for name, value in speed.items():
        print(f"{name.replace('_', ' ')}: {value:,}")
    return scores


def find_checkpoint(directory: Path, name: str, average: int | None) -> list[Path]:
    """The file of a checkpoint, ``averaged``, ``last`` or ``best``, or those whose mean it is where none is made yet.

    Raises:
        UserError: there is no checkpoint of this name, or the run's folder does not hold it.
    """
    if name not in checkpoints.FILES:
        raise UserError(f"{CHECKPOINT}={name}: {', '.join(checkpoints.FILES)} are known")
    path = directory / checkpoints.FILES[name]
    if path.exists():
        return [path]
    if name == "averaged" and average is None:
        raise UserError(f"{CHECKPOINT}=averaged: the run in {directory} averages nothing (evaluate.average=null)")
    if name == "averaged" and (epochs := checkpoints.epoch_checkpoints(directory)):
        return epochs[-average:]
    raise UserError(f"{directory} holds no finished run ({path.name} is needed)")
