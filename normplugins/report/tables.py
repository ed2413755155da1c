"""Fills the tables: those of BLEU in the paper with our numbers beside them, and one for each other experiment."""

from __future__ import annotations

from collections.abc import Sequence

from normplugins.report.language_models import language_model_notes
from normplugins.report.paper import NAMES, PaperCorpus, PaperTable
from normplugins.report.parts import (
    METRIC_NAMES,
    NOT_RUN,
    OTHER_CORPUS,
    Column,
    Footnotes,
    Table,
    corpus_note,
    cut_at,
    difference,
    duration,
    known_number,
    machines,
    mean,
    metric_rank,
    signatures,
    span,
    spread,
    valid_ppl,
)
from normplugins.report.records import Cell, Run, group, norm_rank


def paper_table(paper: PaperTable, corpus: PaperCorpus, runs: Sequence[Run]) -> Table:
    """A column of a table of the paper, its numbers beside ours.

    The row of a norm of the paper holds the runs of the published recipe to its end. Runs with other settings, runs cut
    short and norms that are not in the paper have rows of their own, without a number of the paper to be compared to.
    """
    metrics = (corpus.metric or paper.metric, *paper.also)
    cells = group(runs, key=lambda run: cut_at(run, corpus))
    footnotes = Footnotes()
    rows = []
    for norm in sorted({*NAMES, *(cell.first.norm for cell in cells)}, key=norm_rank):
        of_norm = sorted((cell for cell in cells if cell.first.norm == norm), key=lambda cell: _rank(cell, corpus))
        first = of_norm.pop(0) if of_norm and _is_published_recipe(of_norm[0], corpus) else None
        if norm in NAMES:
            number, difference = corpus.numbers.get(norm), corpus.differences.get(norm)
            known = [known_number(number, missing="unknown"), known_number(difference, sign="+")]
            name = f"{NAMES[norm]} ({norm})"
            missing = "not run in full" if of_norm else NOT_RUN
            empty = [missing, *[""] * (6 + len(metrics))]
            ours = _ours(first, cells, metrics, corpus, footnotes) if first else empty
            rows.append([name, *known, *ours])
        elif first:
            of_norm.insert(0, first)
        for cell in of_norm:
            rows.append([cell.first.label, "", "", *_ours(cell, cells, metrics, corpus, footnotes)])
    columns = [
        Column("norm", right=False),
        Column("paper"),
        Column("paper - LN"),
        Column(f"ours, {METRIC_NAMES[metrics[0]]}"),
        Column("spread"),
        Column("ours - LN"),
        *(Column(METRIC_NAMES[also], detail=True) for also in metrics[1:]),
        Column("best valid ppl", detail=True),
        Column("seeds"),
        Column("updates", detail=True),
        Column("stopped by", right=False, detail=True),
        Column("hardware", right=False, detail=True),
    ]
    notes = [*footnotes.lines(), *corpus.notes, *signatures(runs, metrics), *machines(runs)]
    return Table(f"{corpus.title} ({corpus.experiment})", columns, rows, notes)


def experiment_table(name: str, runs: Sequence[Run]) -> Table:
    """The runs of an experiment that is not in the paper."""
    metrics = sorted({metric for run in runs for metric in run.scores}, key=metric_rank)
    metrics = metrics or ["ppl" if runs[0].model else "bleu"]
    footnotes = Footnotes()
    rows = []
    for cell in group(runs):
        first, *others = [mean(cell, metric) for metric in metrics]
        rows.append(
            [
                cell.first.label,
                first + footnotes.mark(corpus_note(cell)),
                spread(cell, metrics[0]),
                *others,
                valid_ppl(cell),
                span(cell, lambda run: run.updates),
                ", ".join(cell.each(lambda run: run.stopped_by)),
                span(cell, lambda run: run.words_per_second),
                span(cell, lambda run: run.wall_seconds, duration),
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
    notes = [*footnotes.lines(), *language_model_notes(runs), *signatures(runs, metrics), *machines(runs)]
    return Table(name, columns, rows, notes)


def _ours(
    cell: Cell, cells: Sequence[Cell], metrics: Sequence[str], corpus: PaperCorpus, footnotes: Footnotes
) -> list[str]:
    cut = cut_at(cell.first, corpus)
    return [
        mean(cell, metrics[0]) + footnotes.mark(corpus_note(cell, OTHER_CORPUS)) + (f", {cut}" if cut else ""),
        spread(cell, metrics[0]),
        _difference(cell, cells, metrics[0], corpus),
        *(mean(cell, also) for also in metrics[1:]),
        valid_ppl(cell),
        str(len(cell.runs)),
        span(cell, lambda run: run.updates),
        ", ".join(cell.each(lambda run: run.stopped_by)),
        "; ".join(cell.each(lambda run: run.hardware)),
    ]


def _is_published_recipe(cell: Cell, corpus: PaperCorpus) -> bool:
    return not cell.first.extras and not cut_at(cell.first, corpus)


def _rank(cell: Cell, corpus: PaperCorpus) -> tuple[bool, bool, bool, str]:
    run = cell.first
    return (bool(run.extras), bool(cut_at(run, corpus)), bool(run.note), run.extras)


def _difference(cell: Cell, cells: Sequence[Cell], metric: str, corpus: PaperCorpus) -> str:
    """To the LN cell of the same settings (those of the norm apart), corpus and length, if there is one."""

    def alike(run: Run) -> tuple[object, ...]:
        extras = ",".join(extra for extra in run.extras.split(",") if not extra.startswith("norm."))
        return (extras, run.note, run.train_size, cut_at(run, corpus))

    return difference(cell, cells, metric, alike)
