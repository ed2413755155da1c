"""Scores a trained run again, with other search settings or other windows; its record stays as it is."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from normplugins.corpora import corpus_config, prepare
from normplugins.errors import UserError
from normplugins.experiment import checkpoints, folder
from normplugins.experiment.cell import flatten
from normplugins.experiment.check import check_values
from normplugins.experiment.config import check_types
from normplugins.experiment.kinds import kind_of
from normplugins.experiment.recalibrate import recalibrated
from normplugins.experiment.run import set_threads

CHANGEABLE = ("hardware.threads", "common.cpu", "data_dir")


def rescore(directory: Path, overrides: Sequence[str] = (), save: Path | None = None) -> dict[str, dict[str, Any]]:
    """Score the test set with the model that a run's record is about and print the scores.

    A run that goes by its best checkpoint can be scored before its end; that it may not have ended is said.

    Args:
        directory: the run's folder, with its ``config.yaml`` and the checkpoint that was scored.
        overrides: changes to the ``evaluate`` and ``hardware`` sections, such as ``evaluate.beam=4`` for a translation
            run or ``evaluate.context=16`` for a language model.
        save: a folder, made if need be, for what else a run leaves: the translations, or each token's log-probability.

    Returns:
        The metrics as they would stand in a record.

    Raises:
        UserError: the folder holds no checkpoint to score, or an override is not of these sections or does not fit the
            model.
    """
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    path = directory / folder.CONFIG
    if not path.exists():
        raise UserError(f"{directory} holds no finished run ({path.name} is needed)")
    config = OmegaConf.create(path.read_text(encoding="utf-8"))
    assert isinstance(config, DictConfig)
    checkpoint = checkpoints.scored(directory, config.evaluate.average)
    if not checkpoint.exists():
        raise UserError(f"{directory} holds no finished run ({checkpoint.name} is needed)")
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
        scored = recalibrated(config, checkpoint, corpus.bin_dir, folder_of_outputs)
        metrics, speed = kind.evaluate(config, scored, corpus, folder_of_outputs)
    if not (directory / folder.RECORD).exists():
        print(f"{directory} has no record: its run may not have ended, and this is {checkpoint.name} as it is now")
    for name, metric in metrics.items():
        print(f"{name}: {kind.describe(metric)}\n  {metric['signature']}")
    if label := kind.label(dict(flatten(config))):
        print(f"  {label}")
    for name, value in speed.items():
        print(f"{name.replace('_', ' ')}: {value:,}")
    return metrics
