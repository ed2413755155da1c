"""Fills the tables: those of BLEU in the paper with our numbers beside them, and one for each other experiment."""

from __future__ import annotations

from collections.abc import Sequence

from normplugins.report.language_models import language_model_notes
from normplugins.report.paper import NAMES, PaperCorpus, PaperTable
from normplugins.report.parts import (
    METRIC_NAMES,
    NOT_IN_FULL,
    NOT_RUN,
    OTHER_CORPUS,
    Column,
    Footnotes,
    Table,
    brevity,
    compact,
    corpus_note,
    cut_at,
    difference,
    duration,
    known_number,
    machines,
    mean,
    metric_rank,
    seeds_note,
    signatures,
    span,
    two_lines,
    valid_ppl,
)
from normplugins.report.records import CHECKPOINTS, WHOLE, Cell, Run, group, norm_rank

ON_PLAIN_TEXT = ("chrf2", "ter")
"""Metrics that have a place in the second table alone."""


def paper_table(paper: PaperTable, corpus: PaperCorpus, runs: Sequence[Run]) -> Table:
    """A column of a table of the paper, its numbers beside ours.

    The row of a norm of the paper holds the runs of the published recipe to its end. Runs with other settings, runs cut
    short and norms that are not in the paper have rows of their own, without a number of the paper to be compared to.
    """
    metric = corpus.metric or paper.metric
    cells = group(runs, key=lambda run: cut_at(run, corpus))
    footnotes = Footnotes()
    rows = []
    for norm in sorted({*paper.norms, *(cell.first.norm for cell in cells)}, key=norm_rank):
        of_norm = sorted((cell for cell in cells if cell.first.norm == norm), key=lambda cell: _rank(cell, corpus))
        first = of_norm.pop(0) if of_norm and _is_published_recipe(of_norm[0], corpus) else None
        if norm in paper.norms:
            number = known_number(corpus.numbers.get(norm), missing="unknown")
            number += footnotes.mark(corpus.footnotes.get(norm, ""))
            known = [number, known_number(corpus.differences.get(norm), sign="+")]
            missing = NOT_IN_FULL if of_norm else NOT_RUN
            ours = _ours(first, cells, paper, corpus, footnotes) if first else [missing, *[""] * (9 + len(paper.also))]
            rows.append([f"{NAMES[norm]} ({norm})", *known, *ours])
        elif first:
            of_norm.insert(0, first)
        for cell in of_norm:
            name = ", ".join(filter(None, [cell.first.label, cut_at(cell.first, corpus)]))
            rows.append([name, "", "", *_ours(cell, cells, paper, corpus, footnotes)])
    columns = [
        Column("norm", right=False),
        Column("paper"),
        Column("paper\n- LN", detail=True, fold=False),
        Column(f"ours,\n{two_lines(METRIC_NAMES[metric])},\naveraged"),
        Column("ours\n- LN", detail=True, fold=False),
        Column("last"),
        Column("best"),
        Column("brevity\npenalty", detail=True, fold=False),
        Column("seeds"),
        *(Column(METRIC_NAMES[also], detail=True) for also in paper.also),
        Column("best valid\nppl", detail=True),
        Column("updates", detail=True),
        Column("stopped by", right=False, detail=True),
        Column("hardware", right=False, detail=True),
    ]
    notes = [
        *footnotes.lines(),
        *corpus.notes,
        *([CHECKPOINTS_NOTE] if runs else []),
        *seeds_note(cells),
        *signatures(runs, (metric, *paper.also)),
        *machines(runs),
    ]
    return compact(Table(f"{corpus.title} ({corpus.experiment})", columns, rows, notes))


CHECKPOINTS_NOTE = (
    "*averaged*: the mean of the last epochs' checkpoints, by which the recipe is scored; *last*, *best*: the same "
    "metric of the last checkpoint and of the one with the best validation loss. a ± b: mean and sample standard "
    "deviation over the seeds."
)


def experiment_table(name: str, runs: Sequence[Run]) -> Table:
    """The runs of an experiment that is not in the paper: the score of every checkpoint, and what the runs took."""
    metric, *others = _metrics(runs)
    cells = group(runs)
    scored = {run.scored_by for run in runs if run.scores} | {key[0] for run in runs for key in run.scores}
    checkpoints = [checkpoint for checkpoint in CHECKPOINTS if checkpoint in scored] or [runs[0].scored_by]
    penalties = [brevity(cell, metric) for cell in cells]
    footnotes = Footnotes()
    rows = []
    for cell, penalty in zip(cells, penalties, strict=True):
        note = footnotes.mark(corpus_note(cell))
        rows.append(
            [
                cell.first.label,
                *(
                    mean(cell, metric, checkpoint) + note * (checkpoint == cell.first.scored_by)
                    for checkpoint in checkpoints
                ),
                *([penalty] if any(penalties) else []),
                str(len(cell.runs)),
                *(mean(cell, other) for other in others),
                valid_ppl(cell),
                span(cell, lambda run: run.updates),
                ", ".join(cell.each(lambda run: run.stopped_by)),
                span(cell, lambda run: run.words_per_second),
                span(cell, lambda run: run.wall_seconds, duration),
                "; ".join(cell.each(lambda run: run.hardware)),
            ]
        )
    columns = [
        Column("norm", right=False),
        *(Column(f"{METRIC_NAMES.get(metric, metric)},\n{checkpoint}") for checkpoint in checkpoints),
        *([Column("brevity\npenalty")] if any(penalties) else []),
        Column("seeds"),
        *(Column(two_lines(METRIC_NAMES.get(other, other)), detail=True) for other in others),
        Column("best valid\nppl", detail=True),
        Column("updates", detail=True),
        Column("stopped by", right=False, detail=True),
        Column("words/s", detail=True),
        Column("training\ntime", detail=True),
        Column("hardware", right=False, detail=True),
    ]
    notes = [
        *footnotes.lines(),
        *seeds_note(cells),
        *language_model_notes(runs),
        *signatures(runs, (metric, *others)),
        *machines(runs),
    ]
    return compact(Table(name, columns, rows, notes))


def detail_table(name: str, runs: Sequence[Run]) -> Table | None:
    """What the checkpoint that the recipe is scored by has beside the first table's: each test set, chrF2 and TER.

    None where no record holds more than the first table shows.
    """
    metric = _metrics(runs)[0]
    found = [(test_set, measured) for run in runs for _, test_set, measured in run.scores]
    test_sets = sorted({test_set for test_set, measured in found if measured == metric} - {WHOLE})
    also = [other for other in ON_PLAIN_TEXT if (WHOLE, other) in found]
    if not test_sets and not also:
        return None
    cells = group(run for run in runs if run.scores)
    rows = [
        [
            cell.first.label,
            *(mean(cell, metric, test_set=test_set) for test_set in test_sets),
            *(mean(cell, other) for other in also),
            str(len(cell.runs)),
        ]
        for cell in cells
    ]
    columns = [
        Column("norm", right=False),
        *(Column(f"{METRIC_NAMES.get(metric, metric)},\n{test_set}") for test_set in test_sets),
        *(Column(METRIC_NAMES[other], detail=bool(test_sets)) for other in also),
        Column("seeds", detail=True),
    ]
    scored = " or ".join(dict.fromkeys(cell.first.scored_by for cell in cells))
    notes = [f"Of the checkpoint that the recipe is scored by: {scored}.", *signatures(runs, also)]
    parts = " and ".join(filter(None, ["each test set" if test_sets else "", ", ".join(METRIC_NAMES[m] for m in also)]))
    return Table(f"{name}: {parts}", columns, rows, notes)


def _metrics(runs: Sequence[Run]) -> list[str]:
    """The metrics of the first table, that which heads it first."""
    found = {metric for run in runs for _, _, metric in run.scores if metric not in ON_PLAIN_TEXT}
    return sorted(found, key=metric_rank) or ["ppl" if any(run.model for run in runs) else "bleu"]


def _ours(cell: Cell, cells: Sequence[Cell], paper: PaperTable, corpus: PaperCorpus, footnotes: Footnotes) -> list[str]:
    metric = corpus.metric or paper.metric
    averaged, *others = CHECKPOINTS
    return [
        mean(cell, metric, averaged) + footnotes.mark(corpus_note(cell, OTHER_CORPUS)),
        _difference(cell, cells, metric, corpus),
        *(mean(cell, metric, checkpoint) for checkpoint in others),
        brevity(cell, metric, averaged),
        str(len(cell.runs)),
        *(mean(cell, also) for also in paper.also),
        valid_ppl(cell),
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

    return difference(cell, cells, metric, alike, CHECKPOINTS[0])
