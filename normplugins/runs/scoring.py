"""Scores the checkpoints of a run for its record, and again with other settings for ``normplugins evaluate``.

A run is scored with the averaged checkpoint, if its recipe averages, and with the last and the best one. With
``evaluate.recalibrate``, running statistics are re-estimated for all of them, so their scores can be compared.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from normplugins.corpora import Prepared, corpus_config, prepare
from normplugins.evaluation.reestimate import checkpoint_to_score
from normplugins.evaluation.tasks import RunTask, run_task
from normplugins.runs import folder, provenance
from normplugins.runs.cell import flatten
from normplugins.runs.check import check_values
from normplugins.runs.compose import convert_types
from normplugins.runs.overrides import hydra_overrides, parse_overrides, wrong_type
from normplugins.training import checkpoints
from normplugins.utils.errors import UserError
from normplugins.utils.files import copy_file, disk_errors, sha256
from normplugins.utils.json_file import write_json
from normplugins.utils.terminal import say
from normplugins.utils.threads import use_threads
from normplugins.utils.worker_processes import available_cores

Files = dict[str, dict[str, str]]
CHECKPOINT = "evaluate.checkpoint"  # only of ``normplugins evaluate``, not in the config of a run
CHANGEABLE = (CHECKPOINT, "hardware.threads", "common.cpu", "data_dir")


def set_up_process(config: DictConfig) -> None:
    """Let PyTorch use ``hardware.threads`` threads, or every available core, and let fairseq log only warnings."""
    use_threads(config.hardware.threads or available_cores())
    logging.getLogger("fairseq").setLevel(logging.WARNING)


def score_checkpoints(config: DictConfig, corpus: Prepared, directory: Path) -> tuple[dict[str, Any], Files]:
    """Score each checkpoint on each test set and write the outputs to the run's folder.

    Scores that exist are not computed again, and checkpoints with the same content are scored once.

    Returns:
        The entries of the run's record, and the file and sha256 of each scored checkpoint. The entries are
        ``scored_by``, the name of the checkpoint that the recipe is scored by; its ``metrics`` on the whole test set
        (empty if nothing is scored); the ``scores`` by checkpoint, test set and metric; the files with the
        ``translations``; and ``decoding``, the time and speed of that checkpoint's decoding.

    Raises:
        UserError: a checkpoint is damaged or of another run, or an output cannot be written.
    """
    task, names = run_task(config.task._name), checkpoints.scored_names(config.evaluate.average)
    done = folder.read_state(directory, folder.SCORES) or {}  # by a checkpoint's sha256
    identity = folder.identity(directory, corpus)
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    translations: Files = {}
    files: Files = {}
    for name in names:
        path = directory / checkpoints.FILES[name]
        checkpoints.load(path, identity)
        path = checkpoint_to_score(config, path, corpus.bin_dir, directory)
        files[name] = _file_entry(path)
        digest, output = files[name]["sha256"], directory / output_name(task, name, config.evaluate.average)
        if digest not in done or not _unchanged(directory, done[digest]):
            found, speed = task.evaluate(config, path, corpus, output)
            if not found:
                continue
            written = {"output": output.name, "output_sha256": sha256(output)}
            done[digest] = {**written, "scores": found, "decoding": speed}
            write_json(directory / folder.SCORES, done)
        elif done[digest]["output"] != output.name:
            copy_file(directory / done[digest]["output"], output)
        scores[name] = done[digest]["scores"]
        kept = directory / f"seed{config.seed}.{name}.tsv.gz"
        if task.keep_translations(config, corpus, output, kept):
            translations[name] = _file_entry(kept)
    entries = {
        "scored_by": names[0],
        "metrics": scores.get(names[0], {}).get("test", {}),
        "scores": scores,
        "translations": translations,
        "decoding": done[files[names[0]]["sha256"]]["decoding"] if scores else {},
    }
    return entries, files


def _unchanged(directory: Path, scored: Mapping[str, Any]) -> bool:
    """Whether the output file of a scored checkpoint exists and has not changed since it was scored."""
    output = directory / scored["output"]
    return output.is_file() and scored.get("output_sha256") in (None, sha256(output))


def output_name(task: RunTask, name: str, average: int | None) -> str:
    """Return the name of the file with the translations or log-probabilities of the checkpoint ``name``."""
    return f"test.{task.OUTPUT}" if name == checkpoints.scored_names(average)[0] else f"test.{name}.{task.OUTPUT}"


def describe_scores(
    task: RunTask, metrics: Mapping[str, Any], others: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[str]:
    """Return the lines to print: each metric with its signature, one line for each of the ``others``, and the label."""
    lines = [f"{metric}: {task.describe(value)}\n  {value['signature']}" for metric, value in metrics.items()]
    lines += [f"{name}: {task.summary(other)}" for name, other in others.items()]
    label = task.label(settings)
    return [*lines, f"  {label}"] if label else lines


def _file_entry(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": sha256(path)}


def rescore(directory: Path, overrides: Sequence[str], save: Path | None) -> None:
    """Score the test set with a checkpoint of a run, finished or not, and print the scores.

    Args:
        directory: the run's folder.
        overrides: changes to the keys in ``CHANGEABLE`` and in the task's ``RESCORABLE``, such as ``evaluate.beam=4``.
            ``evaluate.checkpoint`` selects the checkpoint ``averaged``, ``last`` or ``best``; the default is the one
            that the recipe is scored by.
        save: a folder for the translations or the tokens' log-probabilities; it is created if needed.

    Raises:
        UserError: the folder does not hold the checkpoint, the prepared corpus is not the one that the run was trained
            on, or an override cannot be used.
    """
    config = folder.stored_config(directory)
    task, average = run_task(config.task._name), config.evaluate.average
    name = change(config, overrides, task) or checkpoints.scored_names(average)[0]
    checkpoint = find_checkpoint(directory, name, average)
    if save:
        with disk_errors(save):
            save.mkdir(parents=True, exist_ok=True)
    set_up_process(config)
    corpus = prepare(corpus_config(config.corpus), Path(config.data_dir))
    task.check_corpus(config, corpus)
    if not provenance.check_corpus(directory, corpus):
        say(f"{directory} does not name the corpus of its run: cannot check that it was {corpus.folder}")
    with tempfile.TemporaryDirectory() as scratch:
        outputs = save or Path(scratch)
        checkpoints.load(checkpoint, folder.identity(directory, corpus))
        checkpoint = checkpoint_to_score(config, checkpoint, corpus.bin_dir, outputs)
        scores, speed = task.evaluate(config, checkpoint, corpus, outputs / output_name(task, name, average))
    if not (directory / folder.RECORD).exists():
        say(f"{directory} has no record: its run may not have ended. {checkpoints.FILES[name]} was scored as it is now")
    others = {test_set: metrics for test_set, metrics in scores.items() if test_set != "test"}
    for line in describe_scores(task, scores.get("test", {}), others, dict(flatten(config))):
        say(line)
    for unit, amount in speed.items():
        print(f"{unit.replace('_', ' ')}: {amount:,}")


def change(config: DictConfig, overrides: Sequence[str], task: RunTask) -> str | None:
    """Apply overrides to the config of a trained run and check it; return ``evaluate.checkpoint`` if it is given."""
    changeable = (*task.RESCORABLE, *CHANGEABLE)
    for override in overrides:
        if "=" not in override or override.partition("=")[0] not in changeable:
            raise UserError(
                f"'{override}' cannot be set for a trained run. Give KEY=VALUE with a key of: {', '.join(changeable)}"
            )
    try:
        for parsed in parse_overrides(hydra_overrides(overrides)):
            OmegaConf.update(config, parsed.key_or_group, parsed.value())
        OmegaConf.resolve(config)
        name: str | None = config.evaluate.pop("checkpoint", None)
        convert_types(config)
    except (HydraException, OmegaConfBaseException) as error:
        text = " ".join(str(error).split())
        raise UserError(wrong_type(error) or f"{' '.join(overrides)} cannot be read: {text}") from error
    if not isinstance(config.common.cpu, bool):
        raise UserError(f"common.cpu={config.common.cpu}: true or false is needed")
    OmegaConf.set_struct(config, True)  # only now, because the config of an older run lacks newer keys
    check_values(config)
    return name


def find_checkpoint(directory: Path, name: str, average: int | None) -> Path:
    """Return the file of a checkpoint in a run's folder.

    Raises:
        UserError: the name is not ``averaged``, ``last`` or ``best``, or the run's folder does not hold the file.
    """
    if name not in checkpoints.FILES:
        raise UserError(f"{CHECKPOINT}={name}: unknown. Known: {', '.join(checkpoints.FILES)}")
    path = directory / checkpoints.FILES[name]
    if name == "averaged" and not average and not path.exists():
        raise UserError(f"{CHECKPOINT}=averaged: {directory} has no averaged checkpoint (evaluate.average=null)")
    if not path.exists():
        raise UserError(missing(path, f"{CHECKPOINT}=last scores the newest one"))
    return path


def missing(checkpoint: Path, newest: str) -> str:
    """Return the message that a run's folder lacks a checkpoint, with ``newest`` if it has the last one."""
    advice = f". {newest}" if checkpoint.with_name(checkpoints.LAST).exists() else ""
    return f"{checkpoint.name} is missing in {checkpoint.parent}: the run is unfinished or was cleaned{advice}"
