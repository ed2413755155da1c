"""Scores a trained run again, with other search settings; its record stays as it is."""

import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from normplugins.corpora import CorpusConfig, prepare
from normplugins.errors import UserError
from normplugins.experiment import checkpoints
from normplugins.experiment.config import check_types
from normplugins.experiment.evaluate import Score, Search, evaluate
from normplugins.experiment.run import search, set_threads

CHANGEABLE = (
    *(f"evaluate.{field.name}" for field in fields(Search)),
    "hardware.threads",
    "common.cpu",
    "data_dir",
)


def rescore(directory: Path, overrides: Sequence[str] = ()) -> dict[str, Score]:
    """Translate the test set with a run's averaged model and print the scores.

    Args:
        directory: the run's folder, with its ``config.yaml`` and averaged checkpoint.
        overrides: changes to the ``evaluate`` and ``hardware`` sections, such as ``evaluate.beam=4``.

    Raises:
        UserError: the folder holds no finished run, or an override is not of these sections.
    """
    path = directory / "config.yaml"
    checkpoint = directory / checkpoints.AVERAGED
    if not path.exists() or not checkpoint.exists():
        raise UserError(f"{directory} holds no finished run ({path.name} and {checkpoint.name} are needed)")
    config = OmegaConf.create(path.read_text(encoding="utf-8"))
    assert isinstance(config, DictConfig)
    OmegaConf.set_struct(config, True)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key not in CHANGEABLE:
            raise UserError(
                f"'{override}' does not change how a trained run is scored. KEY=VALUE of: {', '.join(CHANGEABLE)}"
            )
        try:
            OmegaConf.update(config, key, OmegaConf.create(f"value: {value}").value)
        except YAMLError as error:
            raise UserError(f"'{override}' cannot be read: {' '.join(str(error).split())}") from error
    try:
        check_types(config)
    except OmegaConfBaseException as error:
        raise UserError(str(error)) from error
    set_threads(config)
    corpus = prepare(CorpusConfig.from_mapping(config.corpus), Path(config.data_dir))
    with tempfile.TemporaryDirectory() as scratch:
        scores, speed = evaluate(checkpoint, corpus, search(config), Path(scratch), config.common.cpu)
    for metric, value in scores.items():
        print(f"{metric}: {value}\n  {value.signature}")
    print(f"{speed['sentences_per_second']} sentences/s")
    return scores
