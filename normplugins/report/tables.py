"""Builds the tables of the report: the paper's with our numbers beside them, and one for each other experiment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from normplugins.report.cells import (
    METRICS,
    NOT_IN_FULL,
    NOT_RUN,
    NOT_SCORED,
    SPREAD_SEEDS,
    Cell,
    difference,
    group,
    signatures,
)
from normplugins.report.paper import NAMES, PaperCorpus
from normplugins.report.readings import NORM_SEES_THE_FUTURE, READINGS, SEES_THE_FUTURE
from normplugins.report.records import WHOLE, norm_rank
from normplugins.report.table import Table, build_table

CHECKPOINTS = ("averaged", "last", "best")
ON_PLAIN_TEXT = ("chrf2", "ter")
"""Metrics that only the second table of an experiment shows."""
OTHER_CORPUS = "another corpus"
HEADINGS = {"code": "reading\ncode: sees\nthe future", "masked": "reading\nmasked", "paper": "reading\npaper"}
COUNTED = (
    "ppl: by words, over every test token, `<eos>` included; ppl, full segments: the published count, which drops the "
    "last, partial segment."
)
BEST = "The checkpoint with the best validation loss is scored; *last*: the last checkpoint."
AVERAGED = (
    "*averaged*: the mean of the last epochs' checkpoints, by which the recipe is scored; *last*, *best*: the same "
    "metric of the last checkpoint and of the one with the best validation loss."
)
DEVIATION = f"a ± b: mean and sample standard deviation over {SPREAD_SEEDS} seeds or more."
TEXTS = ("norm", "stopped by", "hardware")
"""The columns of texts."""


@dataclass(frozen=True)
class Row:
    """A row of a table: the cell of each column, and the text that a column shows without a cell.

    ``paper`` is the paper's name of the norm, if the row shows its number.
    """

    name: str
    cells: dict[str, Cell]
    missing: dict[str, str]
    paper: str = ""

    @property
    def seeds(self) -> str:
        """The number of seeds, or one number for each column where they differ."""
        found = [self.cells[key].seeds if key in self.cells else "-" for key in self.missing]
        return "" if not self.cells else found[0] if len(set(found)) == 1 else "/".join(found)


def paper_table(corpus: PaperCorpus, results: pd.DataFrame) -> Table:
    """Return the paper's numbers on a corpus beside ours.

    The row of a norm of the paper holds the runs of the published recipe, on the published corpus, to its end. All
    other runs follow in rows without a number of the paper; shortened schedules have a table of their own.
    """
    every = group(results)
    cells = [cell for cell in every if not cell.first["budget"]]
    keys = READINGS if corpus.metric == "ppl" else ("",)
    rows = []
    for norm in sorted({*NAMES, *(cell.first["norm"] for cell in cells)}, key=norm_rank):
        found = _rows([cell for cell in cells if cell.first["norm"] == norm], norm, dict.fromkeys(keys, ""))
        if norm in NAMES:
            published = found.pop(0).cells if found and found[0].name == norm else {}
            begun = {
                _reading(cell) for cell in every if cell.first["norm"] == norm and not (cell.model and cell.model.row)
            }
            missing = {key: NOT_IN_FULL if key in begun else NOT_RUN for key in keys}
            found.insert(0, Row(f"{NAMES[norm]} ({norm})", published, missing, NAMES[norm]))
        rows += found
    notes = [corpus.note, *([SEES_THE_FUTURE] if corpus.metric == "ppl" else [])]
    title = f"{corpus.title} ({corpus.experiment})"
    return _table(title, corpus.experiment, rows, cells, _metrics(cells, corpus.metric), notes, corpus)


def shortened_table(corpus: PaperCorpus, budget: str, results: pd.DataFrame) -> Table:
    """Return the runs of one shortened schedule, a row for each norm and its settings."""
    cells = group(results)
    norms = dict.fromkeys(cell.first["norm"] for cell in cells)
    missing = dict.fromkeys(READINGS, NOT_RUN)
    rows = [row for norm in norms for row in _rows([c for c in cells if c.first["norm"] == norm], norm, missing)]
    schedule = (
        f"Shortened: the published schedule takes {corpus.ends_at:,} updates, and the learning rate may differ too. No "
        "number here belongs beside the paper's."
    )
    title = f"{corpus.title} ({corpus.experiment}), shortened schedules (budget={budget})"
    slug = f"{corpus.experiment}-budget-{budget}"
    return _table(title, slug, rows, cells, _metrics(cells, corpus.metric), [schedule])


def experiment_table(name: str, results: pd.DataFrame) -> Table:
    """Return the runs of an experiment that is not in the paper: the score of every checkpoint."""
    cells = group(results)
    return _table(name, name, [Row(cell.label, {"": cell}, {"": ""}) for cell in cells], cells, _metrics(cells), [])


def detail_table(name: str, slug: str, results: pd.DataFrame) -> Table | None:
    """Return the scores on each test set, chrF2 and TER, or None where no record holds any of them."""
    cells = [cell for cell in group(results) if (cell.rows["metric"] != "").any()]
    if not cells:
        return None
    metric = _metrics(cells)[0]
    test_sets = sorted(set(results.loc[results["metric"] == metric, "test_set"]) - {WHOLE})
    also = [other for other in ON_PLAIN_TEXT if (results["metric"] == other).any()]
    if not test_sets and not also:
        return None
    rows = [
        {
            "norm": ", ".join(filter(None, [cell.label, cell.first["cut"]])),
            **{f"{_name(metric)},\n{test_set}": cell.score(metric, test_set=test_set) for test_set in test_sets},
            **{_name(other): cell.score(other) for other in also},
            "seeds": cell.seeds,
        }
        for cell in cells
    ]
    scored = " or ".join(dict.fromkeys(cell.first["scored_by"] for cell in cells))
    notes = [f"Scores of the checkpoint by which the recipe is scored: {scored}.", *signatures(cells, also)]
    parts = " and ".join(filter(None, ["each test set" if test_sets else "", ", ".join(map(_name, also))]))
    details = ["seeds", *(map(_name, also) if test_sets else ())]
    return build_table(f"{name}: {parts}", rows, TEXTS, details, notes, f"{slug}-details")


def _table(
    title: str,
    slug: str,
    rows: Sequence[Row],
    cells: Sequence[Cell],
    metrics: Sequence[str],
    notes: Sequence[str],
    corpus: PaperCorpus | None = None,
) -> Table:
    """Put together any table but the details; columns that say nothing new are left out."""
    metric, *others = metrics
    readings = READINGS[0] in rows[0].missing
    checkpoints = ["", "last"] if readings else list(CHECKPOINTS) if corpus else _checkpoints(cells)
    numbers = {"": "", **corpus.numbers} if corpus else {}  # "" stands for a row that is not in the paper
    footnotes = list(dict.fromkeys(corpus.footnotes.values())) if corpus else []
    headings = {key: HEADINGS.get(key) or f"{_name(metric)},\n{checkpoints[0]}" for key in rows[0].missing}
    if corpus:
        headings = {key: f"ours,\n{heading}" for key, heading in headings.items()}

    def footnote(text: str) -> str:
        if text and text not in footnotes:
            footnotes.append(text)
        return f" [{footnotes.index(text) + 1}]" if text else ""

    def score(row: Row, key: str) -> str:
        if key not in row.cells:
            return row.missing[key]
        note = row.cells[key].first["note"]
        if note and corpus:
            note += ", not the paper's corpus: compare it with ours, not with the paper's number"
        return row.cells[key].score(metric, checkpoints[0]) + footnote(f"Corpus: {note}." if note else "")

    def each(row: Row, heading: str, get: Callable[[Cell], str]) -> dict[str, str]:
        """Return a column for each reading."""
        return {
            f"reading\n{key}\n{heading}" if key else heading: get(row.cells[key]) if key in row.cells else ""
            for key in row.missing
        }

    def columns(row: Row) -> dict[str, str]:
        found = {"norm": row.name}
        if corpus:
            about = footnote(corpus.footnotes.get(row.paper, ""))
            found["paper"] = numbers.get(row.paper, "unknown") + about
            found["paper\n- LN"] = corpus.differences.get(row.paper, "")
        found |= {heading: score(row, key) for key, heading in headings.items()}
        if corpus:
            gain = "- LN" if readings else "ours\n- LN"
            found |= each(row, gain, lambda cell: difference(cell, cells, metric, checkpoints[0]))
        for name in checkpoints[1:]:
            heading = name if corpus or readings else f"{_name(metric)},\n{name}"
            found |= each(row, heading, lambda cell, name=name: cell.score(metric, name))  # type: ignore[misc]
        found |= each(row, "brevity\npenalty", lambda cell: cell.brevity(metric))
        found["seeds"] = row.seeds
        for other in others:
            found |= each(row, _name(other), lambda cell, other=other: cell.score(other))  # type: ignore[misc]
        found |= each(row, "best valid\nppl", lambda cell: cell.valid_ppl)
        found["updates"] = "; ".join(dict.fromkeys(cell.updates for cell in row.cells.values()))
        for name in ("stopped_by", "hardware"):
            texts = dict.fromkeys(cell.each(name) for cell in row.cells.values())
            found[name.replace("_", " ")] = "; ".join(texts)
        return found

    texts = [columns(row) for row in rows]
    below = [
        *(f"[{number}] {text}" for number, text in enumerate(footnotes, 1)),
        *notes,
        *([f"{BEST if readings else AVERAGED} {DEVIATION}"] if cells and (readings or corpus) else []),
        *(["*seeds* a/b/c: of code, masked and paper."] if any("/" in row.seeds for row in rows) else []),
        *_language_model_notes(cells),
        *_seeds_note(cells),
        *signatures(cells, metrics),
        *(f"Hardware: {machine}" for cell in cells for machine in cell.runs["machine"]),
    ]
    details = texts[0].keys() - {"norm", "paper", *headings.values(), "seeds"}
    return build_table(title, texts, TEXTS, details, list(dict.fromkeys(below)), slug).folded(empty=("", NOT_SCORED))


def _seeds_note(cells: Sequence[Cell]) -> list[str]:
    """Return a warning if cells are compared and some of them have one seed only."""
    ones = sum(len(cell.runs) == 1 for cell in cells)
    if len(cells) < 2 or not ones:
        return []
    which = "Every row has" if ones == len(cells) else f"{ones} of {len(cells)} rows have"
    return [f"{which} one seed only, and one seed gives no verdict: another seed can reverse the order of two rows."]


def _rows(cells: Sequence[Cell], norm: str, missing: dict[str, str]) -> list[Row]:
    """Put the cells of a norm into rows by their settings, each cell into the column of its reading."""
    rows: list[Row] = []
    for cell in sorted(cells, key=_extra):
        name = ", ".join(filter(None, [norm, _extra(cell)]))
        key = _reading(cell)
        row = next((row for row in rows if row.name == name and key not in row.cells), None)
        if row is None:
            row = Row(name, {}, missing)
            rows.append(row)
        row.cells[key] = cell
    return rows


def _reading(cell: Cell) -> str:
    return cell.model.reading if cell.model else ""


def _extra(cell: Cell) -> str:
    """Return how a cell differs from the published recipe of its column."""
    first, model = cell.first, cell.model.row if cell.model else ""
    return ", ".join(filter(None, [model, first["settings"], first["cut"], OTHER_CORPUS if first["note"] else ""]))


def _checkpoints(cells: Sequence[Cell]) -> list[str]:
    found = {name for cell in cells for column in ("scored_by", "checkpoint") for name in cell.rows[column]}
    return [name for name in CHECKPOINTS if name in found]


def _metrics(cells: Sequence[Cell], first: str = "") -> list[str]:
    """Return the metrics of a main table in the order of their columns, beginning with ``first``."""
    found = {metric for cell in cells for metric in cell.rows["metric"]} - {"", *ON_PLAIN_TEXT}
    ordered = [*(metric for metric in METRICS if metric in found), *sorted(found - METRICS.keys())]
    default = "ppl" if any(cell.model for cell in cells) else "bleu"
    first = first or next(iter(ordered), default)
    return [first, *(metric for metric in ordered if metric != first)]


def _name(metric: str) -> str:
    return METRICS.get(metric, (metric, ""))[0].replace(", ", ",\n")


def _language_model_notes(cells: Sequence[Cell]) -> list[str]:
    """Return the notes on perplexities: what the models see, what is counted, the corpus, a unigram model."""
    models = [cell for cell in cells if cell.model]
    ways = {cell.model.sees_by for cell in models if cell.model}
    notes = [SEES_THE_FUTURE] if "attention" in ways else []
    notes += [NORM_SEES_THE_FUTURE] if "norm" in ways else []
    notes += [COUNTED] if models else []
    for first in (cell.first for cell in models):
        which = f" ({first['note']})" if first["note"] else ""
        if first["subwords"]:
            notes.append(f"The models read {first['subwords']} subwords: best valid ppl is by subwords, ppl by words.")
        notes += [f"Corpus: {first['train_size']}{which}."] if first["train_size"] else []
        if first["unigram"]:
            valid, test = first["unigram"]
            notes.append(
                f"A unigram model, which knows only how frequent each word is, has perplexity {test:.1f} on test and "
                f"{valid:.1f} on valid{which}."
            )
    return notes
