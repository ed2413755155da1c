"""Reads recorded runs for comparisons, with the sufficient statistics of each test sentence."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from normplugins.evaluation import significance
from normplugins.evaluation.significance import Array
from normplugins.runs.inventory import RECORD, split_diverged
from normplugins.utils.errors import UserError
from normplugins.utils.files import sha256
from normplugins.utils.json_file import read_json

REMEDY = "restore it, or run that seed again"
METRICS = {"bleu": significance.bleu, "bleu_compound": significance.bleu, "ppl": significance.nats}
"""The metrics that can be compared, each with its function from statistics to a score (perplexity: nats per word)."""
_OF_TEST_SET = ("tokenized/reference", "tokenized/source.text", "text/test")


@dataclass(frozen=True)
class ScoredRun:
    """A run: its record, and the statistics (N, C) of its test sentences or segments.

    ``lines`` are the translations (N), empty for a language model. Without the log-probabilities of a language model,
    its statistics have one row.
    """

    path: Path
    record: Mapping[str, Any]
    checkpoint: str
    metric: str
    statistics: Array
    lines: tuple[str, ...]

    @property
    def test_set(self) -> dict[str, str]:
        """The hashes of the test set's source and reference files, by the names that the record gives them."""
        hashes = self.record["corpus"]["sha256"]
        return {name: digest for name, digest in hashes.items() if name.startswith(_OF_TEST_SET)}

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The metrics on the whole test set."""
        return self.record["scores"][self.checkpoint]["test"]


@dataclass(frozen=True)
class System:
    """The runs of one cell by seed, and the seeds of its runs that diverged."""

    name: str
    runs: Mapping[int, ScoredRun]
    diverged: frozenset[int] = frozenset()

    @property
    def first(self) -> ScoredRun:
        """The run with the smallest seed."""
        return self.runs[min(self.runs)]


def read_system(name: str, results: Path, checkpoint: str | None = None) -> System:
    """Read the runs that a name stands for.

    Args:
        name: the folder of a run, a folder of such folders or of published records, the file of a record, or a
            published cell such as ``multi30k/ln``.
        results: the folder whose ``runs`` holds the published records.
        checkpoint: ``averaged``, ``last`` or ``best``; None: the one that the recipe is scored by.

    Raises:
        UserError: there is no such run, it was not scored, one of its files is missing or damaged, two runs have the
            same seed, or every run diverged.
    """
    paths = _records(Path(name)) or _records(results / "runs" / name)
    if not paths:
        raise UserError(
            f"{name} is not a run: give a run's folder with its {RECORD}, or a cell such as multi30k/ln with records "
            f"under {results / 'runs'}"
        )
    ended, lost = split_diverged(paths)
    runs: dict[int, ScoredRun] = {}
    for path in ended:
        run = read_run(path, checkpoint)
        if run.record["seed"] in runs:
            raise UserError(f"{path} and {runs[run.record['seed']].path} have the same seed: give one of them")
        runs[run.record["seed"]] = run
    if not runs:
        raise UserError(f"every run in {name} diverged, so there is no score to compare")
    return System(name.rstrip("/"), runs, _seeds(lost))


def read_published(experiment: str, cell: str, results: Path, checkpoint: str) -> System:
    """Read the published runs of a cell that have a perplexity, or translations, of this checkpoint, if any.

    Raises:
        UserError: a record or its translations are damaged.
    """
    ended, lost = split_diverged(sorted((results / "runs" / experiment / cell).glob("seed*.json")))
    records = {path: read_json(path, REMEDY) or {} for path in ended}
    scored = [
        path for path, record in records.items()
        if checkpoint in record.get("scores" if "ppl" in record.get("metrics", {}) else "translations", {})
    ]  # fmt: skip
    runs = {int(records[path]["seed"]): read_run(path, checkpoint, records[path]) for path in scored}
    return System(f"{experiment}/{cell}", dict(sorted(runs.items())), _seeds(lost))


def _seeds(paths: Sequence[Path]) -> frozenset[int]:
    """Return the seeds in the names of published files."""
    return frozenset(int(path.name.partition(".")[0].removeprefix("seed")) for path in paths)


def _records(folder: Path) -> list[Path]:
    if folder.is_file() and folder.suffix == ".json":
        return [folder]
    if (folder / RECORD).exists():
        return [folder / RECORD]
    return sorted([*folder.glob(f"seed*/{RECORD}"), *folder.glob("seed*.json")])


def read_run(path: Path, checkpoint: str | None = None, record: Mapping[str, Any] | None = None) -> ScoredRun:
    """Read a run: its record, unless given, and its translations or probabilities; raises as :func:`read_system`."""
    record = record or read_json(path, REMEDY)
    if record is None or "scores" not in record:
        raise UserError(f"{path} holds no scores by checkpoint: {REMEDY}")
    try:
        checkpoint = checkpoint or str(record["scored_by"])
        if checkpoint not in record["scores"]:
            scored = ", ".join(record["scores"]) or "nothing"
            raise UserError(f"{path} has no score of the checkpoint '{checkpoint}', only of: {scored}")
        scores = record["scores"][checkpoint]["test"]
        metric = next((name for name in METRICS if name in scores), "")
        if not metric:
            raise UserError(f"{path} has none of the metrics that can be compared: {', '.join(METRICS)}")
        read = _segments if metric == "ppl" else _sentences
        statistics, lines = read(path, record, checkpoint, scores[metric])
        run = ScoredRun(path, record, checkpoint, metric, statistics, lines)
        run.test_set, int(record["seed"])  # a KeyError is raised here and not later
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} lacks a field of a record ({error}): {REMEDY}") from error
    return run


def _sentences(
    path: Path, record: Mapping[str, Any], checkpoint: str, score: Mapping[str, Any]
) -> tuple[Array, tuple[str, ...]]:
    kept = record["translations"][checkpoint]
    file = path.parent / kept["file"]
    if not file.exists():
        raise UserError(f"{path} names {file}, which is missing: {REMEDY}")
    statistics, lines = read_translations(file)
    if sha256(file) != kept["sha256"]:
        raise UserError(f"{file} is not the file that {path.name} names (its sha256 differs): {REMEDY}")
    if abs(float(significance.bleu(statistics.sum(axis=0))) - score["score"]) > 1e-6:
        raise UserError(f"{file} does not give the score in {path.name}: {REMEDY}")
    return statistics, lines


def read_translations(file: Path) -> tuple[Array, tuple[str, ...]]:
    """Read published translations: their statistics of BLEU (N, 10), and the lines (N). Raises UserError if damaged."""
    try:
        rows = [line.rsplit("\t", 10) for line in gzip.decompress(file.read_bytes()).decode().split("\n")[:-1]]
        return np.array([row[1:] for row in rows], dtype=np.float64), tuple(row[0] for row in rows)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read ({error}): {REMEDY}") from error


def _segments(
    path: Path, record: Mapping[str, Any], checkpoint: str, score: Mapping[str, Any]
) -> tuple[Array, tuple[str, ...]]:
    name = "test.logprobs.npy" if checkpoint == record["scored_by"] else f"test.{checkpoint}.logprobs.npy"
    file = path.parent / name
    if not file.exists():  # log-probabilities are not published
        return np.array([[score["nats"] * score["tokens"], score["tokens"]]], dtype=np.float64), ()
    config = record["config"]
    length = config.get("evaluate.segment") or config["task.tokens_per_sample"]
    try:
        statistics = significance.segments(np.load(file), int(length), int(score["tokens"]))
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} cannot be read ({error}): {REMEDY}") from error
    if not np.isclose(significance.nats(statistics.sum(axis=0)), score["nats"], rtol=1e-4):
        raise UserError(f"{file} does not give the perplexity in {path.name}: {REMEDY}")
    return statistics, ()


def check_comparable(system: System, baseline: System) -> None:
    """Raise UserError, with what differs, unless all runs were scored the same way on the same sentences."""
    first = baseline.first
    here = _scored_how(first)
    for run in (*baseline.runs.values(), *system.runs.values()):
        there = _scored_how(run)
        if differing := [key for key in {**here, **there} if there.get(key) != here.get(key)]:
            text = "; ".join(f"{key} is {there.get(key)} there and {here.get(key)} here" for key in differing)
            raise UserError(f"{run.path} cannot be compared with {first.path}: {text}")


def _scored_how(run: ScoredRun) -> dict[str, Any]:
    """Return what must be the same for two runs whose scores are compared."""
    signature = run.metrics[run.metric]["signature"]
    of_words = "level:word|tokens" in signature  # every word outside the vocabulary counts as <unk>
    return {
        "metric": run.metric,
        "--checkpoint": run.checkpoint,
        "signature": signature,
        **{f"the hash of {name}": digest[:16] for name, digest in run.test_set.items()},
        "the number of words in the vocabulary": run.record["corpus"].get("dictionary_types") if of_words else None,
        "the number of sentences or segments": len(run.statistics),
    }


def read_test_text(run: ScoredRun, data: Path, side: str) -> list[str] | None:
    """Return the lines of the test set's ``reference`` or ``source`` (plain text), or None if they are not on disk.

    Published records do not hold these lines, so the file is looked up by its hash in the prepared corpora under
    ``data``.
    """
    for name, digest in run.test_set.items():
        if name.startswith(f"tokenized/{side}.text"):
            for path in sorted(data.rglob(Path(name).name)):
                if sha256(path) == digest:
                    return path.read_text(encoding="utf-8").split("\n")[:-1]
    return None
