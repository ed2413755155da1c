"""Fills the tables of perplexities, a column for each reading of Table 2: runs of a whole schedule, and short ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from normplugins.report.paper import NAMES, PaperCorpus, PaperTable
from normplugins.report.parts import (
    METRIC_NAMES,
    NOT_IN_FULL,
    NOT_RUN,
    OTHER_CORPUS,
    Column,
    Footnotes,
    Table,
    compact,
    corpus_note,
    cut_at,
    difference,
    duration,
    known_number,
    machines,
    mean,
    seeds_note,
    signatures,
    span,
    two_lines,
    valid_ppl,
)
from normplugins.report.readings import NORM_SEES_THE_FUTURE, READINGS, SEES_THE_FUTURE
from normplugins.report.records import Cell, Run, group, norm_rank

PPL, FULL_SEGMENTS = METRICS = ("ppl", "ppl_full_segments")
FULL = two_lines(METRIC_NAMES[FULL_SEGMENTS])
HEADINGS = {
    "code": "reading\ncode: sees\nthe future",
    "masked": "reading\nmasked",
    "paper": "reading\npaper",
}
COUNTED = (
    f"{METRIC_NAMES[PPL]}: by words, over every test token, `<eos>` included; {METRIC_NAMES[FULL_SEGMENTS]}: the "
    "published count, which drops the last, partial segment. a ± b: mean and sample standard deviation over the seeds."
)
CHECKPOINT = (
    "Scored is the checkpoint with the best validation loss; *last*: the last checkpoint. *seeds* a/b/c: of code, "
    "masked and paper."
)
Row = list[Cell | None]


def perplexity_table(paper: PaperTable, corpus: PaperCorpus, runs: Sequence[Run]) -> Table:
    """The paper's numbers on ``corpus`` beside ours, a column for each reading.

    The row of a norm of the paper holds the runs of the published recipe to its end. The causal transformer, runs with
    other settings, runs cut short and norms that are not in the paper have rows of their own, without a number of the
    paper. Shortened schedules (``Run.budget``) are left to ``shortened_table``.
    """

    def rest(run: Run) -> tuple[str, ...]:
        return tuple(filter(None, [run.model.row if run.model else "", *run.settings, cut_at(run, corpus)]))

    cells = group((run for run in runs if not run.budget), key=lambda run: cut_at(run, corpus))
    footnotes = Footnotes()
    lines = []
    for norm in sorted({*paper.norms, *(cell.first.norm for cell in cells)}, key=norm_rank):
        rows = _rows([cell for cell in cells if cell.first.norm == norm], rest)
        if norm in paper.norms:
            number = known_number(corpus.numbers.get(norm), missing="unknown")
            head = [f"{NAMES[norm]} ({norm})", number, known_number(corpus.differences.get(norm), sign="+")]
            published = rows.pop(0)[1] if rows and not rows[0][0] else [None] * len(READINGS)
            started = {run.model.reading for run in runs if run.norm == norm and run.model and not run.model.row}
            missing = [NOT_IN_FULL if reading in started else NOT_RUN for reading in READINGS]
            lines.append([*head, *_ours(published, missing, cells, footnotes)])
        for extra, row in rows:
            lines.append([", ".join([norm, *extra]), "", "", *_ours(row, [""] * len(READINGS), cells, footnotes)])
    columns = [
        Column("norm", right=False),
        Column("paper"),
        Column("paper\n- LN", detail=True, fold=False),
        *(Column(f"ours,\n{HEADINGS[reading]}") for reading in READINGS),
        Column("seeds"),
        *(
            Column(f"reading\n{reading}\n{name}", detail=True)
            for name in ("- LN", "last", FULL, "best valid\nppl")
            for reading in READINGS
        ),
        Column("updates", detail=True),
        Column("hardware", right=False, detail=True),
    ]
    shown = [run for cell in cells for run in cell.runs]
    said = language_model_notes(shown)
    notes = dict.fromkeys([*footnotes.lines(), *corpus.notes, SEES_THE_FUTURE, *said])
    checkpoint = [CHECKPOINT] if shown else []
    below = [*notes, *checkpoint, *seeds_note(cells), *signatures(shown, METRICS), *machines(shown)]
    return compact(Table(f"{corpus.title} ({corpus.experiment})", columns, lines, below))


def shortened_table(corpus: PaperCorpus, budget: str, runs: Sequence[Run]) -> Table:
    """The runs of one shortened schedule, a row for each norm (and settings, and number of updates).

    Args:
        corpus: what they ran on; its published schedule stands in a note.
        budget: the schedule's name.
        runs: those with this budget, at least one.
    """

    def shortened(run: Run) -> tuple[str, ...]:
        return (*filter(None, [run.model.row if run.model else "", *run.settings]), f"{run.updates:,}")

    footnotes = Footnotes()
    cells = group(runs, key=lambda run: run.updates)
    lines = []
    for norm in sorted({run.norm for run in runs}, key=norm_rank):
        for (*settings, updates), row in _rows([cell for cell in cells if cell.first.norm == norm], shortened):
            ran = Cell(tuple(run for cell in row if cell for run in cell.runs))
            lines.append(
                [
                    ", ".join([norm, *settings]),
                    *(
                        mean(cell, PPL, digits=1) + footnotes.mark(corpus_note(cell)) if cell else NOT_RUN
                        for cell in row
                    ),
                    _seeds(row),
                    updates,
                    *(mean(cell, PPL, "last", digits=1) if cell else "" for cell in row),
                    *(mean(cell, FULL_SEGMENTS, digits=1) if cell else "" for cell in row),
                    *(valid_ppl(cell) if cell else "" for cell in row),
                    span(ran, lambda run: run.wall_seconds, duration),
                    "; ".join(ran.each(lambda run: run.hardware)),
                ]
            )
    columns = [
        Column("norm", right=False),
        *(Column(HEADINGS[reading]) for reading in READINGS),
        Column("seeds"),
        Column("updates", detail=True),
        *(
            Column(f"reading\n{reading}\n{name}", detail=True)
            for name in ("last", FULL, "best valid\nppl")
            for reading in READINGS
        ),
        Column("training time\nof a run", detail=True),
        Column("hardware", right=False, detail=True),
    ]
    schedule = (
        f"Shortened: the published schedule takes {corpus.ends_at:,} updates, and the learning rate may differ too. No "
        "number here belongs beside the paper's."
    )
    notes = [
        *footnotes.lines(),
        schedule,
        *language_model_notes(runs),
        CHECKPOINT,
        *seeds_note(cells),
        *signatures(runs, METRICS),
        *machines(runs),
    ]
    title = f"{corpus.title} ({corpus.experiment}), shortened schedules (budget={budget})"
    return compact(Table(title, columns, lines, notes))


def language_model_notes(runs: Iterable[Run]) -> list[str]:
    """What a reader of perplexities has to know, as far as it is about these runs; nothing about translations."""
    models = [run for run in runs if run.model]
    ways = {run.model.sees_by for run in models if run.model}
    notes = [SEES_THE_FUTURE] if "attention" in ways else []
    notes += [NORM_SEES_THE_FUTURE] if "norm" in ways else []
    notes += [COUNTED] if models else []
    for run in models:
        which = f" ({run.note})" if run.note else ""
        notes += [f"Corpus: {run.train_size}{which}."] if run.train_size else []
        if run.unigram:
            valid, test = run.unigram
            notes.append(
                f"A unigram model, which knows nothing but how frequent each word is, has perplexity {test:.1f} on "
                f"test and {valid:.1f} on valid{which}."
            )
    return list(dict.fromkeys(notes))


def _rows(cells: Iterable[Cell], key: Callable[[Run], tuple[str, ...]]) -> list[tuple[tuple[str, ...], Row]]:
    """Put cells of one key into one row, each into the column of its reading; one that is taken begins a row."""
    rows: list[tuple[tuple[str, ...], Row]] = []
    for cell in sorted(cells, key=lambda cell: (key(cell.first), bool(cell.first.note))):
        column = READINGS.index(cell.first.model.reading) if cell.first.model else 0
        row = next((row for name, row in rows if name == key(cell.first) and row[column] is None), None)
        if row is None:
            row = [None] * len(READINGS)
            rows.append((key(cell.first), row))
        row[column] = cell
    return rows


def _ours(row: Row, missing: Sequence[str], cells: Sequence[Cell], footnotes: Footnotes) -> list[str]:
    """The columns of our numbers, one for each reading; ``missing`` stands where there is none."""
    numbers = [
        mean(cell, PPL) + footnotes.mark(corpus_note(cell, OTHER_CORPUS)) if cell else instead
        for cell, instead in zip(row, missing, strict=True)
    ]
    details: list[Callable[[Cell], str]] = [
        lambda cell: _difference(cell, cells),
        lambda cell: mean(cell, PPL, "last"),
        lambda cell: mean(cell, FULL_SEGMENTS),
        valid_ppl,
    ]
    ran = Cell(tuple(run for cell in row if cell for run in cell.runs))
    measured = [get(cell) if cell else "" for get in details for cell in row]
    if not ran.runs:
        return [*numbers, "", *measured, "", ""]
    hardware = "; ".join(ran.each(lambda run: run.hardware))
    return [*numbers, _seeds(row), *measured, span(ran, lambda run: run.updates), hardware]


def _seeds(row: Row) -> str:
    """How many seeds each column has: a number where all that were run have as many."""
    seeds = [str(len(cell.runs)) if cell else "-" for cell in row]
    return seeds[0] if len(set(seeds)) == 1 else "/".join(seeds)


def _difference(cell: Cell, cells: Sequence[Cell]) -> str:
    """To the LN cell of the same model, settings (those of the norm apart), corpus and length, if there is one."""

    def alike(run: Run) -> tuple[object, ...]:
        settings = [item for item in run.settings if not item.startswith("norm.")]
        return (run.model, settings, run.note, run.train_size, run.stopped_by, run.updates)

    return difference(cell, cells, PPL, alike)
