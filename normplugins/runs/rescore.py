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
from normplugins.runs.scoring import describe_scores, output_name
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
    config = OmegaConf.load(needed(directory / folder.CONFIG))
    assert isinstance(config, DictConfig)
    kind, average = kind_of(config.task._name), config.evaluate.average
    name = change(config, overrides, kind) or checkpoints.scored_names(average)[0]
    found = find_checkpoint(directory, name, average)
    if save:
        try:
            save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"nothing can be saved in {save}: {error.strerror}") from error
    set_threads(config)
    corpus = prepare(corpus_config(config.corpus), Path(config.data_dir))
    if not folder.check_corpus(directory, corpus):
        print(f"{directory} does not name the corpus of its run: cannot check that it was {corpus.folder}")
    with tempfile.TemporaryDirectory() as scratch:
        outputs = save or Path(scratch)
        checkpoint = found[0]
        if len(found) > 1:
            checkpoint = outputs / checkpoints.FILES[name]
            checkpoints.average(found, checkpoint)
        scored = checkpoint_to_score(config, checkpoint, corpus.bin_dir, outputs)
        scores, speed = kind.evaluate(config, scored, corpus, outputs / output_name(kind, name, average))
    if not (directory / folder.RECORD).exists():
        print(f"{directory} has no record: its run may not have ended, and this is {checkpoint.name} as it is now")
    others = {test_set: metrics for test_set, metrics in scores.items() if test_set != "test"}
    print(*describe_scores(kind, scores.get("test", {}), others, dict(flatten(config))), sep="\n")
    for unit, amount in speed.items():
        print(f"{unit.replace('_', ' ')}: {amount:,}")
    return scores


def needed(path: Path) -> Path:
    """Return the path of a file in a run's folder, or raise UserError if the file does not exist."""
    if not path.exists():
        raise UserError(f"{path.parent} holds no finished run ({path.name} is needed)")
    return path


def change(config: DictConfig, overrides: Sequence[str], kind: Kind) -> str | None:
    """Apply overrides to the config of a trained run and check it; return ``evaluate.checkpoint`` if it is given."""
    changeable = (*kind.RESCORABLE, *CHANGEABLE)
    for override in overrides:
        if "=" not in override or override.partition("=")[0] not in changeable:
            raise UserError(
                f"'{override}' does not change how a trained run is scored. KEY=VALUE of: {', '.join(changeable)}"
            )
    try:
        config.merge_with_dotlist(list(overrides))
    except YAMLError as error:
        raise UserError(f"{' '.join(overrides)} cannot be read: {' '.join(str(error).split())}") from error
    name: str | None = config.evaluate.pop("checkpoint", None)
    try:
        check_types(config)
    except OmegaConfBaseException as error:
        raise UserError(str(error)) from error
    OmegaConf.set_struct(config, True)  # only now, because the config of an older run lacks newer keys
    check_values(config)
    return name


def find_checkpoint(directory: Path, name: str, average: int | None) -> list[Path]:
    """Return the file of a checkpoint, or the epochs' checkpoints to average if their mean does not exist.

    Raises:
        UserError: the name is not ``averaged``, ``last`` or ``best``, or the run's folder does not hold the file.
    """
    if name not in checkpoints.FILES:
        raise UserError(f"{CHECKPOINT}={name}: {', '.join(checkpoints.FILES)} are known")
    path = directory / checkpoints.FILES[name]
    if name == "averaged" and not path.exists():
        if not average:
            raise UserError(f"{CHECKPOINT}=averaged: the run in {directory} averages nothing (evaluate.average=null)")
        if epochs := checkpoints.epoch_checkpoints(directory):
            return epochs[-average:]
    return [needed(path)]
