"""Scores the checkpoints of a run: the one that its recipe is scored by, the last one and the best one.

With ``evaluate.recalibrate``, the statistics of each of them are re-estimated, so their scores differ only because of
the checkpoint.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from normplugins.corpora import PreparedCorpus, PreparedText
from normplugins.evaluation.reestimate import checkpoint_to_score
from normplugins.evaluation.tasks import Kind, kind_of
from normplugins.runs import folder, record
from normplugins.training import checkpoints
from normplugins.utils.errors import UserError
from normplugins.utils.files import sha256, whole_file

Files = dict[str, dict[str, str]]


def score_checkpoints(
    config: DictConfig, corpus: PreparedCorpus | PreparedText, directory: Path
) -> tuple[dict[str, Any], Files]:
    """Score each checkpoint on each test set and write the outputs to the run's folder.

    Scores that exist are not computed again, and checkpoints with the same content are scored once.

    Returns:
        The entries of the run's record: the name of the checkpoint that the recipe is scored by, its ``metrics`` on the
        whole test set (empty if nothing is scored), the ``scores`` by checkpoint, test set and metric, the files with
        the ``translations``, and the time of the first scoring; and the file and sha256 of each scored checkpoint.

    Raises:
        UserError: a checkpoint cannot be read, or an output cannot be written.
    """
    kind, names = kind_of(config.task._name), checkpoints.scored_names(config.evaluate.average)
    done = record.read(directory / folder.SCORES) or {}  # by the sha256 of a checkpoint
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    translations: Files = {}
    files: Files = {}
    for name in names:
        path = checkpoint_to_score(config, directory / checkpoints.FILES[name], corpus.bin_dir, directory)
        files[name] = _file_entry(path)
        digest, output = files[name]["sha256"], directory / output_name(kind, name, config.evaluate.average)
        if digest not in done or not (directory / done[digest]["output"]).exists():
            found, speed = kind.evaluate(config, path, corpus, output)
            if not found:
                continue
            done[digest] = {"output": output.name, "scores": found, "decoding": speed}
            record.write(directory / folder.SCORES, done)
        elif done[digest]["output"] != output.name:
            _copy(directory / done[digest]["output"], output)
        scores[name] = done[digest]["scores"]
        kept = directory / f"seed{config.seed}.{name}.tsv.gz"
        if kind.keep_translations(config, corpus, output, kept):
            translations[name] = _file_entry(kept)
    entries = {
        "scored_by": names[0],
        "metrics": scores.get(names[0], {}).get("test", {}),
        "scores": scores,
        "translations": translations,
        "decoding": done[files[names[0]]["sha256"]]["decoding"] if scores else {},
    }
    return entries, files


def output_name(kind: Kind, name: str, average: int | None) -> str:
    """Return the name of the file with the translations or log-probabilities of the checkpoint ``name``."""
    return f"test.{kind.OUTPUT}" if name == checkpoints.scored_names(average)[0] else f"test.{name}.{kind.OUTPUT}"


def describe_scores(
    kind: Kind, metrics: Mapping[str, Any], others: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[str]:
    """Return the lines to print: each metric with its signature, one line for each of the ``others``, and the label."""
    lines = [f"{metric}: {kind.describe(value)}\n  {value['signature']}" for metric, value in metrics.items()]
    lines += [f"{name}: {kind.brief(other)}" for name, other in others.items()]
    label = kind.label(settings)
    return [*lines, f"  {label}"] if label else lines


def publish_translations(done: dict[str, Any], directory: Path, destination: Path) -> None:
    """Copy the files that a record names under ``translations`` from the run's folder, unless they exist.

    Raises:
        UserError: a file is missing in the run's folder, or cannot be written.
    """
    for kept in done.get("translations", {}).values():
        source, target = directory / kept["file"], destination / kept["file"]
        if target.exists() and sha256(target) == kept["sha256"]:
            continue
        if not source.exists():
            raise UserError(f"{source} is missing, and the run's record names it: force=true starts the run again")
        _copy(source, target)


def _file_entry(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": sha256(path)}


def _copy(source: Path, target: Path) -> None:
    with whole_file(target) as temporary:
        shutil.copyfile(source, temporary)
