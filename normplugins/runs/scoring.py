"""Scores the checkpoints of a run: the one that its recipe is scored by, the last one and the best one.

With ``evaluate.recalibrate``, the statistics of each of them are re-estimated, so their scores differ only because of
the checkpoint.
"""

import shutil
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Scored:
    """The scores of a run, as they are stored in its record.

    Attributes:
        by: name of the checkpoint that the recipe is scored by.
        checkpoint: file of that checkpoint.
        scores: scores by checkpoint, test set and metric.
        decoding: time that scoring the first checkpoint took.
        translations: file name and sha256 of each checkpoint's translations.
        files: file name and sha256 of each checkpoint.
    """

    by: str
    checkpoint: Path
    scores: dict[str, dict[str, dict[str, dict[str, Any]]]]
    decoding: dict[str, float]
    translations: dict[str, dict[str, str]]
    files: dict[str, dict[str, str]]

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """The scores of the recipe on the whole test set; empty for a run that is not scored."""
        return self.scores.get(self.by, {}).get("test", {})


def score_checkpoints(config: DictConfig, corpus: PreparedCorpus | PreparedText, directory: Path) -> Scored:
    """Score each checkpoint on each test set and write the outputs to the run's folder.

    Scores that exist are not computed again, and checkpoints with the same content are scored once.

    Raises:
        UserError: a checkpoint cannot be read, or an output cannot be written.
    """
    kind, names = kind_of(config.task._name), checkpoints.scored_names(config.evaluate.average)
    done = record.read(directory / folder.SCORES) or {}  # by the sha256 of a checkpoint
    paths, scores, translations, files = {}, {}, {}, {}
    for name in names:
        paths[name] = path = checkpoint_to_score(config, directory / checkpoints.FILES[name], corpus.bin_dir, directory)
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
    decoding = done[files[names[0]]["sha256"]]["decoding"] if scores else {}
    return Scored(names[0], paths[names[0]], scores, decoding, translations, files)


def output_name(kind: Kind, name: str, average: int | None) -> str:
    """Return the name of the file with the translations or log-probabilities of the checkpoint ``name``."""
    return f"test.{kind.OUTPUT}" if name == checkpoints.scored_names(average)[0] else f"test.{name}.{kind.OUTPUT}"


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
