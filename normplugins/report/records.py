"""Reads the records of runs, and groups those that may be averaged: the same cell with different seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeVar

from normplugins.report.readings import CHOICES, MODELS, LanguageModel, recorded_model
from normplugins.utils.errors import UserError

DIVERGED = ".diverged.json"  # how the name of a run ends whose loss was not finite
FORMATS = (1, 2)
NORM_ORDER = (
    "ln",
    "bn",
    "bn_released",
    "pnv",
    "pn",
    "pn_alg2",
    "rms",
    "scale",
    "group",
    "instance",
    "weight",
    "affine",
    "none",
)
CHECKPOINTS = ("averaged", "last", "best")
"""The checkpoints of a run that can be scored, in the order of their columns."""
WHOLE = "test"
"""The whole test set; a corpus of several has one more name for each."""
T = TypeVar("T")
Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Score:
    """A score, and the brevity penalty of a BLEU."""

    value: float
    brevity: float | None


@dataclass(frozen=True, eq=False)
class Run:
    """What the report needs of one record. Curves are (update, loss) points; losses are in bits per token.

    ``scores`` are by checkpoint, test set and metric; ``scored_by`` is the checkpoint that the recipe is scored by.
    ``model`` is None for a translation; ``budget`` is the name of a shortened schedule, and empty for the
    experiment's own. ``unigram`` is a unigram model's perplexity on valid and test.
    """

    experiment: str
    norm: str
    extras: str
    seed: int
    scored_by: str
    scores: Mapping[tuple[str, str, str], Score]
    signatures: Mapping[str, str]
    updates: int
    epochs: int
    stopped_by: str
    words_per_second: float
    wall_seconds: float
    valid_ppl: float | None
    train_size: str
    recipe: tuple[Any, ...]
    """what an experiment's own recipe sets and has changed over versions: when it ends, and how long its test set is"""
    corpus: str
    note: str
    hardware: str
    machine: str
    label_smoothing: float
    model: LanguageModel | None
    budget: str
    unigram: tuple[float, float] | None
    train_curve: Curve
    valid_curve: Curve

    @property
    def settings(self) -> tuple[str, ...]:
        """What was set besides the norm and, for a language model, besides its kind and schedule."""
        given = filter(None, self.extras.split(","))
        return tuple(item for item in given if not (self.model and CHOICES.fullmatch(item)))

    @property
    def name(self) -> str:
        """The norm, the kind of language model, and what else was set."""
        return ", ".join([self.norm, *([self.model.name] if self.model else []), *self.settings])

    @property
    def label(self) -> str:
        """The name, and how short the schedule is if it is not the experiment's own."""
        return self.name + (f", shortened to {self.updates:,} updates" if self.budget else "")


@dataclass(frozen=True)
class Cell:
    """Runs that differ in nothing but the seed, and where they ran."""

    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """Any of the runs, for what they have in common."""
        return self.runs[0]

    def scores(self, metric: str, checkpoint: str = "", test_set: str = WHOLE) -> list[Score]:
        """The score of each run, or none at all where a run lacks it.

        Args:
            metric: a key of the records' ``metrics``.
            checkpoint: one of ``CHECKPOINTS``; empty for the one that the recipe is scored by.
            test_set: the whole test set, or one of those that it consists of.
        """
        found = [run.scores.get((checkpoint or run.scored_by, test_set, metric)) for run in self.runs]
        known = [score for score in found if score]
        return known if len(known) == len(found) else []

    def mean(self, metric: str, checkpoint: str = "", test_set: str = WHOLE) -> float | None:
        """Mean score over the seeds, or None where a run lacks it."""
        values = [score.value for score in self.scores(metric, checkpoint, test_set)]
        return fmean(values) if values else None

    def spread(self, metric: str, checkpoint: str = "", test_set: str = WHOLE) -> float | None:
        """Sample standard deviation over the seeds, or None for one seed."""
        values = [score.value for score in self.scores(metric, checkpoint, test_set)]
        return stdev(values) if len(values) > 1 else None

    def each(self, get: Callable[[Run], T]) -> list[T]:
        """The different values among the runs, in the order of their seeds."""
        return list(dict.fromkeys(get(run) for run in self.runs))


def read_runs(results: Path) -> list[Run]:
    """Every ``runs/<experiment>/<variant>/seed<k>.json`` under ``results``, norms in their fixed order.

    Raises:
        UserError: a record is broken, of an unknown format, lacks a field, or is not what its path says.
    """
    paths = sorted((results / "runs").glob("*/*/seed*.json"))
    runs = [read_run(path) for path in paths if not path.name.endswith(DIVERGED)]

    def order(run: Run) -> tuple[object, ...]:
        model = MODELS.index(run.model) if run.model else -1
        return (run.experiment, norm_rank(run.norm), run.budget, model, run.extras, run.seed)

    return sorted(runs, key=order)


def read_diverged(results: Path) -> list[str]:
    """A line for each run under ``results`` whose loss was not finite, published as ``seed<k>.diverged.json``."""
    lines = []
    for path in sorted((results / "runs").glob(f"*/*/seed*{DIVERGED}")):
        if path.with_name(path.name.replace(DIVERGED, ".json")).exists():  # run again since, and to its end
            continue
        try:
            lines.append("{experiment} {variant} seed {seed}: {diverged}".format(**_read_json(path)))
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} does not say which run diverged and how ({error}). Remove it") from error
    return lines


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not a record of a run: {error}. Remove it, or run that seed again") from error


def read_run(path: Path) -> Run:
    """One record; raises UserError naming the file."""
    record = _read_json(path)
    if not isinstance(record, dict) or record.get("format") not in FORMATS:
        found = record.get("format") if isinstance(record, dict) else None
        raise UserError(f"{path}: format {found!r}, but this version reads formats {FORMATS[0]} and {FORMATS[1]}")
    try:
        run = _run(record)
    except KeyError as error:
        raise UserError(f"{path} lacks the field {error.args[0]}. Remove it, or run that seed again") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds a field of the wrong kind: {error}") from error
    named = (path.parent.parent.name, path.parent.name, path.stem)
    inside = (run.experiment, record["variant"], f"seed{run.seed}")
    if named != inside:
        raise UserError(f"{path} holds the record of {'/'.join(inside)}: move it there, or remove it")
    return run


def group(runs: Iterable[Run], key: Callable[[Run], Any] = lambda _: None) -> list[Cell]:
    """Group runs of one norm, settings and corpus (and ``key``, if given) into cells, keeping their order."""
    cells: dict[Any, list[Run]] = {}
    for run in runs:
        alike = (run.norm, run.model, run.budget, run.settings, run.note, run.train_size, run.recipe, key(run))
        cells.setdefault(alike, []).append(run)
    return [Cell(tuple(members)) for members in cells.values()]


def norm_rank(norm: str) -> tuple[int, str]:
    """Where a norm stands among the rows: the paper's first, unknown ones by name at the end."""
    return (NORM_ORDER.index(norm) if norm in NORM_ORDER else len(NORM_ORDER), norm)


def machine_names(hardware: Mapping[str, Any]) -> tuple[str, str]:
    """What a record's ``hardware`` is called, in short (``CPU, 2 threads``) and in full."""
    device = str(hardware["device"])
    threads = f"{hardware['threads']} thread{'s' if hardware['threads'] != 1 else ''}"
    host = f"{hardware['cpu']}, {threads}, {hardware['memory_gb']} GB"
    return (f"CPU, {threads}", host) if device == "CPU" else (device, f"{device}; host {host}")


def _run(record: dict[str, Any]) -> Run:
    norm, variant = str(record["norm"]), str(record["variant"])
    if variant.split(",")[0] != norm:
        raise ValueError(f"variant {variant!r} does not begin with norm {norm!r}")
    training, corpus, hardware = record["training"], record["corpus"], record["hardware"]
    metrics = dict(record["metrics"])  # empty for a run with evaluate.translate=false
    config = record.get("config", {})
    if record["format"] == 1:
        scored_by = "averaged" if config.get("evaluate.average") else "best"
        scores = {scored_by: {WHOLE: metrics}}
    else:
        scored_by, scores = str(record["scored_by"]), record["scores"]
    ppls = [_number(point["ppl"]) for point in record["curves"]["valid"] if point.get("ppl") is not None]
    unigram = corpus.get("unigram_ppl")
    device, machine = machine_names(hardware)
    return Run(
        experiment=str(record["experiment"]),
        norm=norm,
        extras=variant.partition(",")[2],
        seed=int(record["seed"]),
        scored_by=scored_by,
        scores={
            (checkpoint, test_set, metric): _score(value)
            for checkpoint, test_sets in scores.items()
            for test_set, measured in test_sets.items()
            for metric, value in measured.items()
        },
        signatures={name: str(value["signature"]) for name, value in metrics.items() if value.get("signature")},
        updates=int(training["updates"]),
        epochs=int(training["epochs"]),
        stopped_by=str(training["stopped_by"]),
        words_per_second=_number(training["words_per_second"]),
        wall_seconds=_number(training["wall_seconds"]),
        valid_ppl=min(ppls, default=None),
        recipe=(
            *(config.get(key) for key in ("optimization.max_epoch", "optimization.max_update", "checkpoint.patience")),
            json.dumps(corpus["counts"].get("test"), sort_keys=True),
        ),
        train_size=_train_size(corpus["counts"].get("train", {})),
        corpus=str(corpus.get("corpus", "")),
        note=str(corpus.get("note") or ""),
        hardware=device,
        machine=machine,
        label_smoothing=float(config.get("criterion.label_smoothing") or 0),
        model=recorded_model(config, metrics.get("ppl"), str(record.get("label") or "")),
        budget="" if config.get("budget.name") in (None, "full") else str(config["budget.name"]),
        unigram=(_number(unigram["valid"]), _number(unigram["test"])) if unigram else None,
        train_curve=_curve(record["curves"]["train"]),
        valid_curve=_curve(record["curves"]["valid"]),
    )


def _score(value: Mapping[str, Any]) -> Score:
    brevity = value.get("brevity_penalty")
    return Score(_number(value["score"]), None if brevity is None else _number(brevity))


def _train_size(counts: Mapping[str, Any]) -> str:
    """How much there is to train on: pairs of sentences, or the tokens of running text."""
    for unit in ("pairs", "tokens"):
        if counts.get(unit) is not None:
            return f"{int(counts[unit]):,} training {unit}"
    return ""


def _curve(points: list[dict[str, Any]]) -> Curve:
    return tuple((_number(point["update"]), _number(point["loss"])) for point in points)


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)
