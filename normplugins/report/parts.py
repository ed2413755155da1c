"""What every table is made of: its columns and footnotes, and how a number is written in a cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from normplugins.report.paper import Known, PaperCorpus
from normplugins.report.readings import LanguageModel
from normplugins.report.records import WHOLE, Cell, Run

NOT_RUN, NOT_IN_FULL, NOT_SCORED = "not run", "not in full", "not scored"
OTHER_CORPUS = ", not the paper's corpus: compare it with ours, not with the paper's number"
METRIC_NAMES = {
    "bleu": "BLEU",
    "bleu_compound": "BLEU, compounds split",
    "sacrebleu": "sacreBLEU",
    "chrf2": "chrF2",
    "ter": "TER",
    "ppl": "ppl",
    "ppl_full_segments": "ppl, full segments",
}
METRIC_TEXTS = {
    "bleu": "BLEU (tokenised)",
    "bleu_compound": "BLEU (tokenised, hyphenated compounds split)",
    "sacrebleu": "sacreBLEU (plain text)",
    "chrf2": "chrF2 (plain text)",
    "ter": "TER (plain text)",
    "ppl": "ppl",
    "ppl_full_segments": "ppl, full segments",
}


@dataclass(frozen=True)
class Column:
    """A column's heading, of one line or more; numbers stand right.

    ``detail``: left out where a terminal is too narrow for all. Where no row has it, or all have the same, it is left
    out of the table, unless ``fold`` is off, and a note says the value.
    """

    name: str
    right: bool = True
    detail: bool = False
    fold: bool = True


@dataclass(frozen=True)
class Table:
    """A table as text, for the page and for the terminal; ``notes`` stand under it, one a line."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def compact(table: Table) -> Table:
    """The table without the details that no row has, or all have the same: a note says these once."""
    said, kept = [], []
    for index, column in enumerate(table.columns):
        values = [row[index] for row in table.rows if row[index] not in ("", NOT_SCORED)]
        if not (column.detail and column.fold) or len(set(values)) > 1 or len(values) == 1:
            kept.append(index)
        elif values:
            said.append(f"{column.name.replace(chr(10), ' ')} {values[0]}")
    rows = [[row[index] for index in kept] for row in table.rows]
    notes = [f"The same in all rows that were run: {'; '.join(said)}."] if said else []
    return Table(table.title, [table.columns[index] for index in kept], rows, [*notes, *table.notes])


class Footnotes:
    """Numbers texts in the order in which they are first referred to."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        """The reference to put behind a number; none for an empty text."""
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return f" [{self.texts.index(text) + 1}]"

    def lines(self) -> list[str]:
        """The texts with their numbers, to stand under the table."""
        return [f"[{number}] {text}" for number, text in enumerate(self.texts, 1)]


def two_lines(name: str) -> str:
    """A metric's name, broken after its comma for a column's heading."""
    return name.replace(", ", ",\n")


def duration(seconds: float) -> str:
    """A time for people: ``48 s``, ``14 min``, ``3 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def cut_at(run: Run, corpus: PaperCorpus) -> str:
    """Empty for a run that ended as the published training does, else what to say beside its number."""
    done = {"patience": 0, "max_epoch": run.epochs, "max_update": run.updates}
    if run.stopped_by == corpus.ends_by and done[corpus.ends_by] >= corpus.ends_at:
        return ""
    return f"cut at {run.updates:,} updates"


def known_number(number: Known | None, sign: str = "", missing: str = "") -> str:
    """A number of the paper with its mark."""
    return f"{number.value:{sign}.1f} {number.mark}" if number else missing


def mean(cell: Cell, metric: str, checkpoint: str = "", test_set: str = WHOLE, digits: int = 2) -> str:
    """The mean score over the seeds and, of several, their sample standard deviation."""
    score, spread = cell.mean(metric, checkpoint, test_set), cell.spread(metric, checkpoint, test_set)
    if score is None:
        return NOT_SCORED
    return f"{score:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def brevity(cell: Cell, metric: str, checkpoint: str = "") -> str:
    """The mean brevity penalty over the seeds, empty for what is no BLEU."""
    found = [score.brevity for score in cell.scores(metric, checkpoint)]
    known = [value for value in found if value is not None]
    return f"{fmean(known):.3f}" if known and len(known) == len(found) else ""


def valid_ppl(cell: Cell) -> str:
    """The mean over the seeds of each one's best perplexity on the validation set."""
    ppl = [run.valid_ppl for run in cell.runs if run.valid_ppl is not None]
    return f"{fmean(ppl):.2f}" if ppl else ""


def difference(
    cell: Cell, cells: Iterable[Cell], metric: str, alike: Callable[[Run], object], checkpoint: str = ""
) -> str:
    """To the mean of the LN cell whose runs are ``alike`` and whose norm has its own settings, if there is one."""
    mine = cell.mean(metric, checkpoint)
    for other in cells:
        theirs = other.mean(metric, checkpoint)
        plain = other.first.norm == "ln" and not any(item.startswith("norm.") for item in other.first.settings)
        if plain and alike(other.first) == alike(cell.first) and other is not cell:
            return f"{mine - theirs:+.2f}" if mine is not None and theirs is not None else ""
    return ""


def span(cell: Cell, get: Callable[[Run], float], text: Callable[[float], str] = "{:,.0f}".format) -> str:
    """A value of the runs, or the lowest and the highest of them."""
    values = [get(run) for run in cell.runs]
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low}–{high}"


def corpus_note(cell: Cell, consequence: str = "") -> str:
    """What the footnote of a number says of a corpus that is not the published one."""
    return f"Corpus: {cell.first.note}{consequence}." if cell.first.note else ""


def seeds_note(cells: Iterable[Cell]) -> list[str]:
    """What a reader has to know of numbers without a spread, where any are compared."""
    cells = list(cells)
    ones = sum(len(cell.runs) == 1 for cell in cells)
    if len(cells) < 2 or not ones:
        return []
    which = "Every row is" if ones == len(cells) else "A row without ± is"
    return [f"{which} one seed, and one seed orders nothing: another seed can turn the order of two rows round."]


def signatures(runs: Sequence[Run], metrics: Iterable[str]) -> list[str]:
    """One line per metric and signature; which rows it belongs to is said only where there are several.

    Language models of one kind are scored alike, whatever their norm: the kind stands for its rows where that is so.
    """
    lines = []
    for metric in metrics:
        rows: dict[str, list[Run]] = {}
        of_model: dict[LanguageModel | None, set[str]] = {}
        for run in (run for run in runs if metric in run.signatures):
            rows.setdefault(run.signatures[metric], []).append(run)
            of_model.setdefault(run.model, set()).add(run.signatures[metric])
        for signature, members in rows.items():
            labels = [run.model.name if run.model and len(of_model[run.model]) == 1 else run.label for run in members]
            which = f" ({'; '.join(dict.fromkeys(labels))})" if len(rows) > 1 else ""
            lines.append(f"{METRIC_TEXTS.get(metric, metric)}{which}: `{signature}`")
    return lines


def machines(runs: Iterable[Run]) -> list[str]:
    """One line for each machine the runs ran on."""
    return [f"Hardware: {machine}" for machine in dict.fromkeys(run.machine for run in runs)]


def metric_rank(metric: str) -> tuple[int, str]:
    """Where a metric stands among the columns."""
    known = list(METRIC_NAMES)
    return (known.index(metric) if metric in known else len(known), metric)
