"""Reads the records under results/causality/ and groups those that differ in nothing but the seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from normplugins.report.readings import CHOICES, MODELS, LanguageModel, language_model
from normplugins.report.records import machine_names, norm_rank
from normplugins.utils.errors import UserError

FORMAT = 1  # that of normplugins.runs.audit
MODES = {"evaluation": "evaluation", "training": "training", "training_in_warmup": "training, PN warming up"}


@dataclass(frozen=True)
class Change:
    """|Δ log p| in nats over several seeds: the mean of means, the greatest; ``identical``: no bit of any output."""

    mean: float
    max: float
    identical: bool

    @classmethod
    def of(cls, figures: Sequence[Mapping[str, Any]]) -> Change:
        """From the figures of each seed."""
        return cls(
            fmean(one["mean"] for one in figures),
            max(one["max"] for one in figures),
            all(one["identical"] for one in figures),
        )


@dataclass(frozen=True)
class Mode:
    """What one mode showed, over seeds: at distance 1, by distance, and in another segment of the batch."""

    change: Change
    ppl_true: float
    ppl_replaced: float
    distances: tuple[tuple[int, float], ...]
    other: Change | None
    repeatable: bool


@dataclass(frozen=True)
class Cell:
    """A run's records, one a seed."""

    records: tuple[Mapping[str, Any], ...]

    @property
    def first(self) -> Mapping[str, Any]:
        """Any of them, for what they have in common."""
        return self.records[0]

    @property
    def norm(self) -> str:
        """The norm's name."""
        return str(self.first["norm"])

    @property
    def model(self) -> LanguageModel:
        """Which language model it is."""
        model = self.first["model"]
        pre_norm, masked = model.get("normalize_before", False), model.get("masked", model["causal"])
        return language_model(model["name"], pre_norm, masked, model["causal"])

    @property
    def causal(self) -> bool:
        """Whether nothing of the future may be seen at evaluation, by attention or by the norm."""
        return bool(self.first["model"]["causal"])

    @property
    def run(self) -> str:
        """The experiment, how short its schedule is, and what else was set."""
        budget, settings = self.first["run"]["budget"], str(self.first["variant"]).split(",")[1:]
        short = f", shortened to {self.first['run']['updates']:,} updates" if budget != "full" else ""
        others = [f", {item}" for item in settings if not CHOICES.fullmatch(item)]
        return f"{self.first['experiment']}{short}{''.join(others)}"

    @property
    def warming(self) -> bool:
        """Whether PN's warmup had not ended when training did."""
        return any(record["warming"] for record in self.records)

    @cached_property
    def modes(self) -> dict[str, Mode]:
        """What was measured, by the names of ``MODES``."""
        found = {name: [one["measured"][name] for one in self.records if one["measured"][name]] for name in MODES}
        return {name: _mode(figures) for name, figures in found.items() if figures}

    def over_seeds(self, get: Callable[[Mapping[str, Any]], float | None]) -> float | None:
        """The mean of something over the seeds, or None where one lacks it."""
        values = [get(record) for record in self.records]
        known = [value for value in values if value is not None]
        return fmean(known) if len(known) == len(values) else None

    def each(self, get: Callable[[Mapping[str, Any]], Any]) -> list[Any]:
        """The different values among the seeds, in their order."""
        return list(dict.fromkeys(map(get, self.records)))


def read_cells(results: Path) -> list[Cell]:
    """Every ``causality/<experiment>/<variant>/seed<k>.json`` under ``results``, in a fixed order.

    Raises:
        UserError: a record cannot be read; the message names the file.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for path in sorted((results / "causality").glob("*/*/seed*.json")):
        record = _read(path)
        groups.setdefault((record["experiment"], record["variant"]), []).append(record)
    cells = [Cell(tuple(sorted(records, key=lambda one: int(one["seed"])))) for records in groups.values()]
    return sorted(cells, key=lambda cell: (cell.run, MODELS.index(cell.model), norm_rank(cell.norm)))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']!r}, but this version reads format {FORMAT}")
        cell = Cell((record,))
        _ = cell.run, cell.model, cell.warming, cell.modes["evaluation"], cell.modes["training"]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no record of this analysis ({error!r}): remove it, or analyze its run again"
        ) from error
    return dict(record)


def _mode(figures: Sequence[Mapping[str, Any]]) -> Mode:
    by_distance: dict[int, list[float]] = {}
    for point in (point for one in figures for point in one["by_distance"]):
        by_distance.setdefault(point["distance"], []).append(point["mean"])
    others = [one["other_segment"] for one in figures if one["other_segment"]]
    return Mode(
        Change.of(figures),
        fmean(one["ppl_true"] for one in figures),
        fmean(one["ppl_replaced"] for one in figures),
        tuple((distance, fmean(means)) for distance, means in sorted(by_distance.items())),
        Change.of(others) if others else None,
        all(one["repeatable"] for one in figures),
    )


def machines(cells: Iterable[Cell]) -> list[str]:
    """The machines of the measurements."""
    found = (name for cell in cells for name in cell.each(lambda one: machine_names(one["hardware"])[1]))
    return list(dict.fromkeys(found))
