"""``normplugins evaluate``: scores a trained run with another checkpoint, search or windows; its record stays."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from normplugins.corpora import corpus_config, prepare
from normplugins.evaluation.reestimate import checkpoint_to_score
from normplugins.evaluation.tasks import Kind, kind_of
from normplugins.runs import folder
from normplugins.runs.cell import flatten
from normplugins.runs.check import check_values
from normplugins.runs.compose import check_types
from normplugins.runs.run import set_threads
from normplugins.runs.scoring import output_name
from normplugins.training import checkpoints
from normplugins.utils.errors import UserError

CHECKPOINT = "evaluate.checkpoint"  # only of this command: neither a run's config nor the name of a cell has this key
CHANGEABLE = (CHECKPOINT, "hardware.threads", "common.cpu", "data_dir")


def rescore(
    directory: Path, overrides: Sequence[str] = (), save: Path | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Score the test set with a checkpoint of a run, finished or not, and print the scores.

    Args:
        directory: the run's folder, with its ``config.yaml`` and the checkpoint.
        overrides: changes to the sections ``evaluate`` and ``hardware``, such as ``evaluate.beam=4`` for a translation
            run or ``evaluate.context=16`` for a language model. ``evaluate.checkpoint`` selects the checkpoint
            ``averaged``, ``last`` or ``best``; the default is the one that the recipe is scored by.
        save: a folder for the translations or the tokens' log-probabilities; it is created if needed.

    Returns:
        The metrics by test set, as in a record.

    Raises:
        UserError: the folder does not hold the checkpoint, the prepared corpus is not the one that the run was trained
            on, or an override cannot be used.
    """
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    path = directory / folder.CONFIG
    if not path.exists():
        raise UserError(f"{directory} holds no finished run ({path.name} is needed)")
    config = OmegaConf.create(path.read_text(encoding="utf-8"))
    assert isinstance(config, DictConfig)
    kind = kind_of(config.task._name)
    name, found = _apply(overrides, config, kind, directory)
    if save:
        try:
            save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"nothing can be saved in {save}: {error.strerror}") from error
    set_threads(config)
    corpus = prepare(corpus_config(config.corpus), Path(config.data_dir))
    folder.check_corpus(directory, corpus)
    with tempfile.TemporaryDirectory() as scratch:
        outputs = save or Path(scratch)
        checkpoint = found[0]
        if len(found) > 1:
            checkpoint = outputs / checkpoints.FILES[name]
            checkpoints.average(found, checkpoint)
        scored = checkpoint_to_score(config, checkpoint, corpus.bin_dir, outputs)
        output = outputs / output_name(kind, name, config.evaluate.average)
        scores, speed = kind.evaluate(config, scored, corpus, output)
    if not (directory / folder.RECORD).exists():
        print(f"{directory} has no record: its run may not have ended, and this is {checkpoint.name} as it is now")
    for metric, result in scores.get("test", {}).items():
        print(f"{metric}: {kind.describe(result)}\n  {result['signature']}")
    for test_set in [each for each in scores if each != "test"]:
        print(f"{test_set}: {kind.brief(scores[test_set])}")
    if label := kind.label(dict(flatten(config))):
        print(f"  {label}")
    for unit, amount in speed.items():
        print(f"{unit.replace('_', ' ')}: {amount:,}")
    return scores


def _apply(overrides: Sequence[str], config: DictConfig, kind: Kind, directory: Path) -> tuple[str, list[Path]]:
    """Change ``config`` and check it; returns the name of the checkpoint to score, and its files."""
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
    OmegaConf.set_struct(config, True)  # only now, because the config of an older run lacks newer keys
    check_values(config)
    return name, found


def find_checkpoint(directory: Path, name: str, average: int | None) -> list[Path]:
    """Return the file of a checkpoint, or the epochs' checkpoints to average if their mean does not exist.

    Raises:
        UserError: the name is not ``averaged``, ``last`` or ``best``, or the run's folder does not hold the file.
    """
    if name not in checkpoints.FILES:
        raise UserError(f"{CHECKPOINT}={name}: {', '.join(checkpoints.FILES)} are known")
    path = directory / checkpoints.FILES[name]
    if path.exists():
        return [path]
    if name == "averaged" and not average:
        raise UserError(f"{CHECKPOINT}=averaged: the run in {directory} averages nothing (evaluate.average=null)")
    if average and name == "averaged" and (epochs := checkpoints.epoch_checkpoints(directory)):
        return epochs[-average:]
    raise UserError(f"{directory} holds no finished run ({path.name} is needed)")
