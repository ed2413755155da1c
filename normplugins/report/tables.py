"""Builds the tables of the report: the paper's with our numbers beside them, and one for each other experiment."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import pandas as pd

from normplugins.report.cells import NOT_SCORED, Cell, difference, group, shared_settings, signatures
from normplugins.report.contrasts import CHECKPOINTS, NOT_RUN
from normplugins.report.metrics import METRICS, metric_name
from normplugins.report.paper import NAMES, PaperCorpus
from normplugins.report.readings import MODELS, NORM_SEES_THE_FUTURE, READINGS, SEES_THE_FUTURE
from normplugins.report.records import PER_REPLICA, WHOLE_TEST_SET, norm_rank
from normplugins.report.table import build_table
from normplugins.utils.terminal import Table

ON_PLAIN_TEXT = ("chrf2", "ter")
"""Metrics that only the second table of an experiment shows."""
OTHER_CORPUS, NOT_IN_FULL = "another corpus", "not in full"
COUNTED = (
    "ppl: by words, over every test token, `<eos>` included; ppl, full segments: the published count, which drops the "
    "last, partial segment."
)
BEST = "The checkpoint with the best validation loss is scored; *last*: the last checkpoint."
OURS_MINUS_LN = "ours\n- LN"
INTERVAL = "ours - LN: the mean over the seeds that both have, and its 95 % interval by Student's t over these seeds."
TEXTS = ("norm", "stopped by", "hardware")
"""The columns that hold text rather than numbers."""


@dataclass(frozen=True)
class Row:
    """A row of a table: its cell or, without one, the text in place of a score.

    ``paper`` is the paper's name of the norm, if the row shows its number.
    """

    name: str
    cell: Cell | None
    missing: str = ""
    paper: str = ""


def paper_table(corpus: PaperCorpus, results: pd.DataFrame) -> Table:
    """Return the paper's numbers on a corpus beside ours.

    Each norm of the paper has a row (for a language model, one for each reading) of the runs that followed the
    published recipe to its end on the published corpus. If the experiment has no run, each norm has one row for all
    readings. All other runs follow in rows without a number of the paper; shortened schedules have a table of their
    own.
    """
    every = group(results)
    cells = [cell for cell in every if not cell.first["budget"]]
    norms = sorted({*NAMES, *(cell.first["norm"] for cell in cells)}, key=norm_rank)
    models, readings = [""], [""]
    if corpus.metric == "ppl" and every:
        models, readings = list(MODELS), list(READINGS)
    elif corpus.metric == "ppl":
        models = readings = ["each reading"]
    begun = {(cell.first["norm"], cell.first["model"]) for cell in every}
    rows = []
    for model, norm in product(models, norms):
        others = [cell for cell in cells if (cell.first["norm"], cell.first["model"]) == (norm, model)]
        if norm in NAMES and model in readings:
            # the published WMT14 run had per-replica statistics in 128 processes; any number is compared with it
            ours = next((cell for cell in others if re.fullmatch(rf"({PER_REPLICA}\d+)?", _differs(cell))), None)
            others = [cell for cell in others if cell is not ours]
            name = ", ".join(filter(None, [f"{NAMES[norm]} ({norm})", model]))
            rows.append(Row(name, ours, NOT_IN_FULL if (norm, model) in begun else NOT_RUN, NAMES[norm]))
        rows += [Row(_name_of(cell), cell) for cell in others]
    notes = [corpus.note, *([SEES_THE_FUTURE] if corpus.metric == "ppl" else [])]
    title = f"{corpus.title} ({corpus.experiment})"
    return _table(title, corpus.experiment, rows, cells, corpus.metric, notes, corpus)


def shortened_table(corpus: PaperCorpus, budget: str, results: pd.DataFrame) -> Table:
    """Return the runs of one shortened schedule, a row for each norm and its settings."""
    schedule = (
        f"Shortened: the published schedule takes {corpus.ends_at:,} updates, and the learning rate may differ too. No "
        "number here belongs beside the paper's."
    )
    title = f"{corpus.title} ({corpus.experiment}), shortened schedules (budget={budget})"
    return experiment_table(title, f"{corpus.experiment}-budget-{budget}", results, corpus.metric, [schedule])


def experiment_table(
    title: str, slug: str, results: pd.DataFrame, metric: str = "", notes: Sequence[str] = ()
) -> Table:
    """Return a table of runs without numbers of the paper, with the score of every checkpoint.

    ``metric`` is the main metric; by default, it is the first that the runs have.
    """
    cells = group(results)
    return _table(title, slug, [Row(cell.label, cell) for cell in cells], cells, metric, notes)


def detail_tables(name: str, slug: str, results: pd.DataFrame) -> list[Table]:
    """Return a list with the table of the scores on each test set, chrF2 and TER, empty if no record holds any."""
    cells = [cell for cell in group(results) if (cell.rows["metric"] != "").any()]
    if not cells:
        return []
    metric = _metrics(cells)[0]
    test_sets = sorted(set(results.loc[results["metric"] == metric, "test_set"]) - {WHOLE_TEST_SET})
    also = [other for other in ON_PLAIN_TEXT if (results["metric"] == other).any()]
    if not test_sets and not also:
        return []
    rows = [
        {
            "norm": _name_of(cell),
            **{f"{_name(metric)},\n{test_set}": cell.score(metric, test_set=test_set) for test_set in test_sets},
            **{_name(other): cell.score(other) for other in also},
            "seeds": cell.seeds,
        }
        for cell in cells
    ]
    scored = " or ".join(dict.fromkeys(cell.first["scored_by"] for cell in cells))
    notes = [*shared_settings(cells), f"Scores of the {scored} checkpoint.", *signatures(cells, also)]
    parts = " and ".join(filter(None, ["each test set" if test_sets else "", ", ".join(map(_name, also))]))
    details = ["seeds", *(map(_name, also) if test_sets else ())]
    return [build_table(f"{name}: {parts}", rows, TEXTS, details, notes, f"{slug}-details")]


def _table(
    title: str,
    slug: str,
    rows: Sequence[Row],
    cells: Sequence[Cell],
    metric: str,
    notes: Sequence[str],
    corpus: PaperCorpus | None = None,
) -> Table:
    """Build any table except that of details; optional columns that are empty or the same in all rows are left out."""
    metrics = _metrics(cells, metric)
    metric, *others = metrics
    perplexity = corpus is not None and corpus.metric == "ppl"
    scored, *also = ["", "last"] if perplexity else CHECKPOINTS if corpus else _checkpoints(cells) or [""]
    numbers = {"": "", **corpus.numbers} if corpus else {}  # "" stands for a row that is not in the paper
    footnotes = list(dict.fromkeys(corpus.footnotes.values())) if corpus else []
    main = ",\n".join(filter(None, ["ours" if corpus else "", _name(metric), scored]))
    optional: dict[str, Callable[[Cell], str]] = {
        **({OURS_MINUS_LN: lambda cell: difference(cell, cells, metric, scored, interval=True)} if corpus else {}),
        **{name if corpus else f"{_name(metric)},\n{name}": partial(Cell.score, metric=metric, checkpoint=name)
           for name in also},
        "brevity\npenalty": lambda cell: cell.brevity(metric),
        "seeds": lambda cell: cell.seeds,
        **{_name(other): partial(Cell.score, metric=other) for other in others},
        "best valid\nppl": lambda cell: cell.valid_ppl,
        "updates": lambda cell: cell.updates,
        "stopped by": lambda cell: cell.each("stopped_by"),
        "hardware": lambda cell: cell.each("hardware"),
    }  # fmt: skip

    def footnote(text: str) -> str:
        if text and text not in footnotes:
            footnotes.append(text)
        return f" [{footnotes.index(text) + 1}]" if text else ""

    def score(cell: Cell) -> str:
        note = cell.first["note"]
        if note and corpus:
            note += ", not the paper's corpus: compare it with ours, not with the paper's number"
        return cell.score(metric, scored) + footnote(f"Corpus: {note}." if note else "")

    def columns(row: Row) -> dict[str, str]:
        found = {"norm": row.name}
        if corpus:
            found["paper"] = numbers.get(row.paper, "unknown") + footnote(corpus.footnotes.get(row.paper, ""))
            found["paper\n- LN"] = corpus.differences.get(row.paper, "")
        found[main] = score(row.cell) if row.cell else row.missing
        return found | {heading: get(row.cell) if row.cell else "" for heading, get in optional.items()}

    texts = [columns(row) for row in rows]
    intervals = any("[" in row.get(OURS_MINUS_LN, "") for row in texts)
    below = [
        *(f"[{number}] {text}" for number, text in enumerate(footnotes, 1)),
        *shared_settings(cells),
        *notes,
        *([INTERVAL] if intervals else []),
        *([BEST] if perplexity and cells else []),
        *_language_model_notes(cells),
        *_seeds_note(cells),
        *_versions_note(cells),
        *signatures(cells, metrics),
        *(f"Hardware: {machine}" for cell in cells for machine in cell.runs["machine"]),
    ]
    details = texts[0].keys() - {"norm", "paper", main, "seeds"}
    return build_table(title, texts, TEXTS, details, list(dict.fromkeys(below)), slug).folded(empty=("", NOT_SCORED))


def _seeds_note(cells: Sequence[Cell]) -> list[str]:
    """Return warnings if the cells of a table have different seeds, or only one seed."""
    seeds, notes = [frozenset(cell.runs["seed"]) for cell in cells], []
    if len({*filter(None, seeds)}) > 1:
        notes.append("Rows with different seeds cannot be subtracted from each other.")
    ones = sum(len(each) == 1 for each in seeds)
    if ones and len(cells) > 1:
        which = "Every row has" if ones == len(cells) else f"{ones} of {len(cells)} rows have"
        says = "only one seed, which gives no verdict: another seed can reverse the order of two rows."
        notes.append(f"{which} {says}")
    return notes


def _versions_note(cells: Sequence[Cell]) -> list[str]:
    """Return which version of the code made which rows, if the rows come from several versions."""
    rows: dict[str, list[str]] = {}
    for cell in cells:
        if len(cell.runs):
            rows.setdefault(cell.each("version"), []).append(cell.label)
    first = max(rows, key=lambda version: len(rows[version]), default="")
    others = [f"{'; '.join(rows[version])} ({version or 'unknown'})" for version in rows if version != first]
    caveat = (
        "A difference between two versions may also come from the code or the processor; the "
        "[repeated runs](repeats/README.md) give examples of what a processor changes."
    )
    return [f"Version of the code: {first}, except {'. '.join(others)}. {caveat}"] if others else []


def _differs(cell: Cell) -> str:
    """Return how a cell differs from the published recipe."""
    return ", ".join(filter(None, [cell.first["settings"], *_cut_or_other_corpus(cell)]))


def _cut_or_other_corpus(cell: Cell) -> list[str]:
    return [cell.first["cut"], OTHER_CORPUS if cell.first["note"] else ""]


def _name_of(cell: Cell) -> str:
    named = [cell.first["norm"], cell.first["model"], *cell.own_settings, *_cut_or_other_corpus(cell)]
    return ", ".join(filter(None, named))


def _checkpoints(cells: Sequence[Cell]) -> list[str]:
    """Return the checkpoints of a table, beginning with the one by which most of its cells are scored."""
    found = {name for cell in cells for column in ("scored_by", "checkpoint") for name in cell.rows[column]}
    scored_by = [cell.first["scored_by"] for cell in cells]
    first = max(CHECKPOINTS, key=scored_by.count)
    return [name for name in sorted(CHECKPOINTS, key=lambda name: name != first) if name in found]


def _metrics(cells: Sequence[Cell], first: str = "") -> list[str]:
    """Return the metrics of a main table in the order of their columns, beginning with ``first``."""
    found = {metric for cell in cells for metric in cell.rows["metric"]} - {"", *ON_PLAIN_TEXT}
    ordered = [*(metric for metric in METRICS if metric in found), *sorted(found - METRICS.keys())]
    default = "ppl" if any(cell.first["model"] for cell in cells) else "bleu"
    first = first or next(iter(ordered), default)
    return [first, *(metric for metric in ordered if metric != first)]


def _name(metric: str) -> str:
    return metric_name(metric).replace(", ", ",\n")


def _language_model_notes(cells: Sequence[Cell]) -> list[str]:
    """Return the notes on perplexities: what the models see, what is counted, the corpus, a unigram model."""
    models = [cell for cell in cells if cell.first["model"]]
    ways = {MODELS[cell.first["model"]] for cell in models}
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
