"""Fills the tables of perplexities: the paper's beside ours, as published and causal, and those of short schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from normplugins.report.paper import NAMES, PaperCorpus
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
    signatures,
    span,
    valid_ppl,
)
from normplugins.report.records import AS_PUBLISHED, BY_NORM, CAUSAL, KINDS, TRANSFORMER, Cell, Run, group, norm_rank

PPL, FULL_SEGMENTS = METRICS = ("ppl", "ppl_full_segments")
SEES_THE_FUTURE = (
    f'"{AS_PUBLISHED}" marks the published baseline: its attention is not masked, so at every position it reads the '
    "tokens after it, the one it has to predict among them. Such a number, the paper's included, is no language "
    "model's perplexity and not to be compared with a causal one."
)
NORM_SEES_THE_FUTURE = (
    'In a row that says "its norm sees the future", attention is masked, but the norm\'s statistics are those of the '
    "whole segment, the tokens to predict among them, at evaluation too. That is no language model's perplexity either."
)
COUNTED = (
    f"{METRIC_NAMES[PPL]}: by words, over every test token, `<eos>` included; {METRIC_NAMES[FULL_SEGMENTS]}: the "
    "published count, which drops the last, partial segment. a ± b: mean and sample standard deviation over the seeds."
)


def perplexity_table(corpus: PaperCorpus, runs: Sequence[Run]) -> Table:
    """The paper's numbers on ``corpus`` beside ours: the tensor transformer as published, and causal.

    The row of a norm of the paper holds the runs of the published recipe to its end. The causal transformer, runs with
    other settings, runs cut short and norms that are not in the paper have rows of their own, without a number of the
    paper. Shortened schedules (``Run.budget``) are left to ``shortened_table``.
    """

    def rest(run: Run) -> tuple[str, ...]:
        kind = run.model if run.model in (TRANSFORMER, *BY_NORM.values()) else ""
        return tuple(filter(None, [kind, *run.settings, cut_at(run, corpus)]))

    cells = group((run for run in runs if not run.budget), key=lambda run: cut_at(run, corpus))
    footnotes = Footnotes()
    lines = []
    for norm in sorted({*NAMES, *(cell.first.norm for cell in cells)}, key=norm_rank):
        of_norm = [cell for cell in cells if cell.first.norm == norm]
        rows = _rows(of_norm, rest, [[AS_PUBLISHED, *BY_NORM.values()], [CAUSAL, TRANSFORMER]])
        head = [norm, "", ""]
        if norm in NAMES:
            number = known_number(corpus.numbers.get(norm), missing="unknown")
            head = [f"{NAMES[norm]} ({norm})", number, known_number(corpus.differences.get(norm), sign="+")]
            published = rows.pop(0)[1] if rows and not rows[0][0] else [None, None]
            started = {run.model for run in runs if run.norm == norm}
            missing = ["not run in full" if kind in started else NOT_RUN for kind in (AS_PUBLISHED, CAUSAL)]
            lines.append([*head, *_ours(published, missing, cells, footnotes)])
        for extra, pair in rows:
            lines.append([", ".join([norm, *extra]), "", "", *_ours(pair, ["", ""], cells, footnotes)])
    columns = [
        Column("norm", right=False),
        Column("paper"),
        Column("paper\n- LN"),
        Column("ours, ppl\nas published:\nsees the future"),
        Column("seeds"),
        Column("ours\n- LN"),
        Column("ours, ppl\ncausal"),
        Column("causal\nseeds"),
        Column("causal\n- LN"),
        *(
            Column(f"{kind.replace(': ', chr(10))}\n{name}", detail=True)
            for kind in (AS_PUBLISHED, CAUSAL)
            for name in (METRIC_NAMES[FULL_SEGMENTS], "best valid ppl")
        ),
        Column("updates", detail=True),
        Column("hardware", right=False, detail=True),
    ]
    shown = [run for cell in cells for run in cell.runs]
    notes = dict.fromkeys([*footnotes.lines(), *corpus.notes, SEES_THE_FUTURE, *language_model_notes(shown)])
    return Table(
        f"{corpus.title} ({corpus.experiment})", columns, lines, [*notes, *signatures(shown, METRICS), *machines(shown)]
    )


def shortened_table(corpus: PaperCorpus, budget: str, runs: Sequence[Run]) -> Table:
    """The runs of one shortened schedule, a row for each norm (and settings, and number of updates).

    Args:
        corpus: what they ran on; its published schedule stands in a note.
        budget: the schedule's name.
        runs: those with this budget, at least one.
    """

    def shortened(run: Run) -> tuple[str, ...]:
        kind = [run.model] if run.model in BY_NORM.values() else []
        return (*kind, *run.settings, f"{run.updates:,} updates")

    footnotes = Footnotes()
    cells = group(runs, key=lambda run: run.updates)
    lines = []
    for norm in sorted({run.norm for run in runs}, key=norm_rank):
        of_norm = [cell for cell in cells if cell.first.norm == norm]
        rows = _rows(of_norm, shortened, [[AS_PUBLISHED, *BY_NORM.values()], [CAUSAL], [TRANSFORMER]])
        for (*settings, updates), row in rows:
            ran = Cell(tuple(run for cell in row if cell for run in cell.runs))
            seeds = [str(len(cell.runs)) if cell else "-" for cell in row]
            lines.append(
                [
                    ", ".join([norm, *settings]),
                    updates,
                    *(_short(cell) + footnotes.mark(corpus_note(cell)) if cell else NOT_RUN for cell in row),
                    seeds[0] if len(set(seeds)) == 1 else " / ".join(seeds),
                    *(mean(cell, FULL_SEGMENTS) if cell else "" for cell in row),
                    span(ran, lambda run: run.wall_seconds, duration),
                    "; ".join(ran.each(lambda run: run.hardware)),
                ]
            )
    columns = [
        Column("norm", right=False),
        Column("shortened to"),
        Column("tensor transformer\nas published:\nsees the future\ntest / best valid"),
        Column("tensor transformer\ncausal\ntest / best valid"),
        Column("causal\ntransformer\ntest / best valid"),
        Column("seeds"),
        *(Column(f"{kind}:\n{METRIC_NAMES[FULL_SEGMENTS]}", detail=True) for kind in KINDS),
        Column("training time\nof a run", detail=True),
        Column("hardware", right=False, detail=True),
    ]
    schedule = (
        f"Shortened: the published schedule takes {corpus.ends_at:,} updates, and the learning rate may differ too. No "
        "number here belongs beside the paper's."
    )
    notes = [*footnotes.lines(), schedule, *language_model_notes(runs), *signatures(runs, METRICS), *machines(runs)]
    return Table(f"{corpus.title} ({corpus.experiment}), shortened schedules (budget={budget})", columns, lines, notes)


def language_model_notes(runs: Iterable[Run]) -> list[str]:
    """What a reader of perplexities has to know, as far as it is about these runs; nothing about translations."""
    models = [run for run in runs if run.model]
    notes = [SEES_THE_FUTURE] if any(run.model == AS_PUBLISHED for run in models) else []
    notes += [NORM_SEES_THE_FUTURE] if any(run.model in BY_NORM.values() for run in models) else []
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


def _rows(
    cells: Iterable[Cell], key: Callable[[Run], tuple[str, ...]], slots: Sequence[Sequence[str]]
) -> list[tuple[tuple[str, ...], list[Cell | None]]]:
    """Put cells of one key into one row, each into the slot that lists its model; a slot that is taken begins a row."""
    rows: list[tuple[tuple[str, ...], list[Cell | None]]] = []
    for cell in sorted(cells, key=lambda cell: (key(cell.first), bool(cell.first.note))):
        slot = next(index for index, models in enumerate(slots) if cell.first.model in models)
        row = next((row for name, row in rows if name == key(cell.first) and row[slot] is None), None)
        if row is None:
            row = [None] * len(slots)
            rows.append((key(cell.first), row))
        row[slot] = cell
    return rows


def _ours(
    pair: Sequence[Cell | None], missing: Sequence[str], cells: Sequence[Cell], footnotes: Footnotes
) -> list[str]:
    """The columns of our numbers, as published and causal; ``missing`` stands where there is none."""
    numbers, details = [], []
    for cell, instead in zip(pair, missing, strict=True):
        if cell is None:
            numbers += [instead, "", ""]
            details += ["", ""]
        else:
            note = footnotes.mark(corpus_note(cell, OTHER_CORPUS))
            numbers += [_mean_and_spread(cell) + note, str(len(cell.runs)), _difference(cell, cells)]
            details += [mean(cell, FULL_SEGMENTS), valid_ppl(cell)]
    ran = Cell(tuple(run for cell in pair if cell for run in cell.runs))
    where = (
        [span(ran, lambda run: run.updates), "; ".join(ran.each(lambda run: run.hardware))] if ran.runs else ["", ""]
    )
    return [*numbers, *details, *where]


def _mean_and_spread(cell: Cell, digits: int = 2) -> str:
    score, spread = cell.mean(PPL), cell.spread(PPL)
    if score is None:
        return "not scored"
    return f"{score:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def _short(cell: Cell) -> str:
    """Test and best validation perplexity, to a digit: there are three of these in a row."""
    valid = [run.valid_ppl for run in cell.runs if run.valid_ppl is not None]
    return f"{_mean_and_spread(cell, digits=1)} / {f'{fmean(valid):.1f}' if valid else '-'}"


def _difference(cell: Cell, cells: Sequence[Cell]) -> str:
    """To the LN cell of the same model, settings (those of the norm apart), corpus and length, if there is one."""

    def alike(run: Run) -> tuple[object, ...]:
        settings = [item for item in run.settings if not item.startswith("norm.")]
        return (run.model, settings, run.note, run.train_size, run.stopped_by, run.updates)

    return difference(cell, cells, PPL, alike)
