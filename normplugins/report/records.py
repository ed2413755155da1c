"""Reads the records of runs, and groups those that may be averaged: the same cell with different seeds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeVar

from normplugins.errors import UserError

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
# What a language model is called wherever its number or its curve stands.
AS_PUBLISHED = "as published: sees the future"
CAUSAL = "causal"
TRANSFORMER = "causal transformer"
KINDS = (AS_PUBLISHED, CAUSAL, TRANSFORMER)
# The same models where attention is masked and the norm, one of whole sentences, sees the future all the same.
BY_NORM = {
    CAUSAL: "masked, but its norm sees the future",
    TRANSFORMER: "masked transformer, but its norm sees the future",
}
# Overrides that choose one of these, or a shorter schedule: labels say them in words.
CHOICES = re.compile(r"(model\.causal|architecture|budget)=\w+")
T = TypeVar("T")
Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class Run:
    """What the report needs of one record. Curves are (update, loss) points; losses are in bits per token.

    ``model`` says which language model it is, and is empty for a translation; ``budget`` is the name of a shortened
    schedule, and empty for the experiment's own. ``unigram`` is a unigram model's perplexity on valid and test.
    """

    experiment: str
    norm: str
    extras: str
    seed: int
    scores: Mapping[str, float]
    signatures: Mapping[str, str]
    updates: int
    epochs: int
    stopped_by: str
    words_per_second: float
    wall_seconds: float
    valid_ppl: float | None
    train_size: str
    corpus: str
    note: str
    hardware: str
    machine: str
    label_smoothing: float
    model: str
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
        return ", ".join([self.norm, *filter(None, [self.model]), *self.settings])

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

    def mean(self, metric: str) -> float | None:
        """Mean score over the seeds, or None where a run lacks this metric."""
        values = [run.scores[metric] for run in self.runs if metric in run.scores]
        return fmean(values) if len(values) == len(self.runs) else None

    def spread(self, metric: str) -> float | None:
        """Sample standard deviation over the seeds, or None for one seed."""
        values = [run.scores[metric] for run in self.runs if metric in run.scores]
        return stdev(values) if len(values) == len(self.runs) > 1 else None

    def each(self, get: Callable[[Run], T]) -> list[T]:
        """The different values among the runs, in the order of their seeds."""
        return list(dict.fromkeys(get(run) for run in self.runs))


def read_runs(results: Path) -> list[Run]:
    """Every ``runs/<experiment>/<variant>/seed<k>.json`` under ``results``, norms in their fixed order.

    Raises:
        UserError: a record is broken, of an unknown format, lacks a field, or is not what its path says.
    """
    runs = [read_run(path) for path in sorted((results / "runs").glob("*/*/seed*.json"))]

    def order(run: Run) -> tuple[object, ...]:
        kind = ("", *KINDS, *BY_NORM.values()).index(run.model)
        return (run.experiment, norm_rank(run.norm), run.budget, kind, run.extras, run.seed)

    return sorted(runs, key=order)


def read_run(path: Path) -> Run:
    """One record; raises UserError naming the file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not a record of a run: {error}. Remove it, or run that seed again") from error
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
        cells.setdefault((run.norm, run.extras, run.note, run.train_size, key(run)), []).append(run)
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
    ppls = [_number(point["ppl"]) for point in record["curves"]["valid"] if point.get("ppl") is not None]
    config = record.get("config", {})
    unigram = corpus.get("unigram_ppl")
    device, machine = machine_names(hardware)
    return Run(
        experiment=str(record["experiment"]),
        norm=norm,
        extras=variant.partition(",")[2],
        seed=int(record["seed"]),
        scores={name: _number(value["score"]) for name, value in metrics.items()},
        signatures={name: str(value["signature"]) for name, value in metrics.items() if value.get("signature")},
        updates=int(training["updates"]),
        epochs=int(training["epochs"]),
        stopped_by=str(training["stopped_by"]),
        words_per_second=_number(training["words_per_second"]),
        wall_seconds=_number(training["wall_seconds"]),
        valid_ppl=min(ppls, default=None),
        train_size=_train_size(corpus["counts"].get("train", {})),
        corpus=str(corpus.get("corpus", "")),
        note=str(corpus.get("note") or ""),
        hardware=device,
        machine=machine,
        label_smoothing=float(config.get("criterion.label_smoothing") or 0),
        model=_model(config, metrics.get("ppl"), str(record.get("label") or "")),
        budget="" if config.get("budget.name") in (None, "full") else str(config["budget.name"]),
        unigram=(_number(unigram["valid"]), _number(unigram["test"])) if unigram else None,
        train_curve=_curve(record["curves"]["train"]),
        valid_curve=_curve(record["curves"]["valid"]),
    )


def _model(config: Mapping[str, Any], ppl: Mapping[str, Any] | None, label: str) -> str:
    """Which language model it is; one that may or may not see the future must not pass for either.

    Whether attention is masked stands in the config, and whether the model is causal in the signature of its score;
    without a score, in the record's label.
    """
    if ppl is None and config.get("task._name") != "language_modeling":
        return ""
    name = config["model._name"]
    if name == "tensor_transformer_lm":
        kind = CAUSAL if config["model.causal"] else AS_PUBLISHED
    elif name == "norm_transformer_lm":
        kind = TRANSFORMER
    else:
        raise ValueError(f"unknown language model {name!r}")
    seen = "causal:no" in str(ppl.get("signature")).split("|") if ppl else label.startswith("not causal")
    return BY_NORM.get(kind, kind) if seen else kind


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
