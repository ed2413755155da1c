"""Fills the tables: the paper's with our numbers beside them, and one for each other experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from normplugins.report.paper import NAMES, Known, PaperCorpus, PaperTable
from normplugins.report.records import Cell, Run, group, norm_rank

NOT_RUN = "not run"
OTHER_CORPUS = ", not the paper's corpus: compare it with ours, not with the paper's number"
METRIC_NAMES = {"bleu": "BLEU", "sacrebleu": "sacreBLEU", "ppl": "ppl"}
METRIC_TEXTS = {"bleu": "BLEU (tokenised)", "sacrebleu": "sacreBLEU (plain text)", "ppl": "perplexity"}


@dataclass(frozen=True)
class Column:
    """A column's heading; numbers stand right. ``detail``: left out where a terminal is too narrow for all."""

    name: str
    right: bool = True
    detail: bool = False


@dataclass(frozen=True)
class Table:
    """A table as text, for the page and for the terminal; ``notes`` stand under it, one a line."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


class _Footnotes:
    """Numbers texts in the order in which they are first referred to."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return f" [{self.texts.index(text) + 1}]"

    def lines(self) -> list[str]:
        return [f"[{number}] {text}" for number, text in enumerate(self.texts, 1)]


def paper_table(paper: PaperTable, corpus: PaperCorpus, runs: Sequence[Run]) -> Table:
    """A column of a table of the paper, its numbers beside ours.

    The row of a norm of the paper holds the runs of the published recipe to its end. Runs with other settings, runs cut
    short and norms that are not in the paper have rows of their own, without a number of the paper to be compared to.
    """
    cells = group(runs, key=lambda run: _cut_at(run, corpus))
    footnotes = _Footnotes()
    rows = []
    for norm in sorted({*NAMES, *(cell.first.norm for cell in cells)}, key=norm_rank):
        of_norm = sorted((cell for cell in cells if cell.first.norm == norm), key=lambda cell: _rank(cell, corpus))
        first = of_norm.pop(0) if of_norm and _is_published_recipe(of_norm[0], corpus) else None
        if norm in NAMES:
            number, difference = corpus.numbers.get(norm), corpus.differences.get(norm)
            known = [_known(number, missing="unknown"), _known(difference, sign="+")]
            name = f"{NAMES[norm]} ({norm})"
            missing = "not run in full" if of_norm else NOT_RUN
            ours = _ours(first, cells, paper, corpus, footnotes) if first else [missing, *[""] * (7 + len(paper.also))]
            rows.append([name, *known, *ours])
        elif first:
            of_norm.insert(0, first)
        for cell in of_norm:
            rows.append([_label(cell), "", "", *_ours(cell, cells, paper, corpus, footnotes)])
    metric = METRIC_NAMES[paper.metric]
    columns = [
        Column("norm", right=False),
        Column("paper"),
        Column("paper - LN"),
        Column(f"ours, {metric}"),
        Column("spread"),
        Column("ours - LN"),
        *(Column(METRIC_NAMES[also], detail=True) for also in paper.also),
        Column("best valid ppl", detail=True),
        Column("seeds"),
        Column("updates", detail=True),
        Column("stopped by", right=False, detail=True),
        Column("hardware", right=False, detail=True),
    ]
    notes = [*footnotes.lines(), *corpus.notes, *_signatures(runs, (paper.metric, *paper.also)), *_machines(runs)]
    return Table(f"{corpus.title} ({corpus.experiment})", columns, rows, notes)


def experiment_table(name: str, runs: Sequence[Run]) -> Table:
    """The runs of an experiment that is not in the paper."""
    metrics = sorted({metric for run in runs for metric in run.scores}, key=_metric_rank) or ["bleu"]
    footnotes = _Footnotes()
    rows = []
    for cell in group(runs):
        first, *others = [_mean(cell, metric) for metric in metrics]
        rows.append(
            [
                _label(cell),
                first + footnotes.mark(_corpus_note(cell)),
                _spread(cell, metrics[0]),
                *others,
                _valid_ppl(cell),
                _span(cell, lambda run: run.updates),
                ", ".join(cell.each(lambda run: run.stopped_by)),
                _span(cell, lambda run: run.words_per_second),
                _span(cell, lambda run: run.wall_seconds, duration),
                str(len(cell.runs)),
                "; ".join(cell.each(lambda run: run.hardware)),
            ]
        )
    columns = [
        Column("norm", right=False),
        Column(METRIC_NAMES.get(metrics[0], metrics[0])),
        Column("spread"),
        *(Column(METRIC_NAMES.get(metric, metric)) for metric in metrics[1:]),
        Column("best valid ppl", detail=True),
        Column("updates", detail=True),
        Column("stopped by", right=False, detail=True),
        Column("words/s", detail=True),
        Column("training time"),
        Column("seeds"),
        Column("hardware", right=False, detail=True),
    ]
    return Table(name, columns, rows, [*footnotes.lines(), *_signatures(runs, metrics), *_machines(runs)])


def duration(seconds: float) -> str:
    """A time for people: ``48 s``, ``14 min``, ``3 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def _ours(
    cell: Cell, cells: Sequence[Cell], paper: PaperTable, corpus: PaperCorpus, footnotes: _Footnotes
) -> list[str]:
    cut = _cut_at(cell.first, corpus)
    return [
        _mean(cell, paper.metric) + footnotes.mark(_corpus_note(cell, OTHER_CORPUS)) + (f", {cut}" if cut else ""),
        _spread(cell, paper.metric),
        _difference(cell, cells, paper.metric, corpus),
        *(_mean(cell, also) for also in paper.also),
        _valid_ppl(cell),
        str(len(cell.runs)),
        _span(cell, lambda run: run.updates),
        ", ".join(cell.each(lambda run: run.stopped_by)),
        "; ".join(cell.each(lambda run: run.hardware)),
    ]


def _cut_at(run: Run, corpus: PaperCorpus) -> str:
    """Empty for a run that ended as the published training does, else what to say beside its number."""
    done = {"patience": 0, "max_epoch": run.epochs, "max_update": run.updates}
    if run.stopped_by == corpus.ends_by and done[corpus.ends_by] >= corpus.ends_at:
        return ""
    return f"cut at {run.updates:,} updates"


def _is_published_recipe(cell: Cell, corpus: PaperCorpus) -> bool:
    return not cell.first.extras and not _cut_at(cell.first, corpus)


def _rank(cell: Cell, corpus: PaperCorpus) -> tuple[bool, bool, bool, str]:
    run = cell.first
    return (bool(run.extras), bool(_cut_at(run, corpus)), bool(run.note), run.extras)


def _difference(cell: Cell, cells: Sequence[Cell], metric: str, corpus: PaperCorpus) -> str:
    """To the LN cell of the same settings (those of the norm apart), corpus and length, if there is one."""

    def alike(run: Run) -> tuple[object, ...]:
        extras = ",".join(extra for extra in run.extras.split(",") if not extra.startswith("norm."))
        return (extras, run.note, run.train_pairs, _cut_at(run, corpus))

    mine = cell.mean(metric)
    for other in cells:
        theirs = other.mean(metric)
        if other.first.norm == "ln" and alike(other.first) == alike(cell.first) and other is not cell:
            return f"{mine - theirs:+.2f}" if mine is not None and theirs is not None else ""
    return ""


def _known(number: Known | None, sign: str = "", missing: str = "") -> str:
    return f"{number.value:{sign}.1f} {number.mark}" if number else missing


def _label(cell: Cell) -> str:
    return cell.first.label


def _mean(cell: Cell, metric: str) -> str:
    mean = cell.mean(metric)
    return "not scored" if mean is None else f"{mean:.2f}"


def _valid_ppl(cell: Cell) -> str:
    ppl = [run.valid_ppl for run in cell.runs if run.valid_ppl is not None]
    return f"{fmean(ppl):.2f}" if ppl else ""


def _spread(cell: Cell, metric: str) -> str:
    spread = cell.spread(metric)
    return "one seed" if len(cell.runs) == 1 else "" if spread is None else f"± {spread:.2f}"


def _span(cell: Cell, get: Callable[[Run], float], text: Callable[[float], str] = "{:,.0f}".format) -> str:
    values = [get(run) for run in cell.runs]
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low}–{high}"


def _corpus_note(cell: Cell, consequence: str = "") -> str:
    return f"Corpus: {cell.first.note}{consequence}." if cell.first.note else ""


def _signatures(runs: Iterable[Run], metrics: Iterable[str]) -> list[str]:
    """One line per metric and signature; which rows it belongs to is said only where there are several."""
    lines = []
    for metric in metrics:
        rows: dict[str, list[str]] = {}
        for run in runs:
            if metric in run.signatures:
                rows.setdefault(run.signatures[metric], []).append(run.label)
        for signature, labels in rows.items():
            which = f" ({'; '.join(dict.fromkeys(labels))})" if len(rows) > 1 else ""
            lines.append(f"{METRIC_TEXTS.get(metric, metric)}{which}: `{signature}`")
    return lines


def _machines(runs: Iterable[Run]) -> list[str]:
    return [f"Hardware: {machine}" for machine in dict.fromkeys(run.machine for run in runs)]


def _metric_rank(metric: str) -> tuple[int, str]:
    known = list(METRIC_NAMES)
    return (known.index(metric) if metric in known else len(known), metric)
