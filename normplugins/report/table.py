"""A table of text, and how it is written as Markdown, as LaTeX and for a terminal."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import fill

import tabulate

tabulate.MIN_PADDING = 0  # else every heading is two characters wider than its column needs
NARROWEST = 14
"""The fewest characters to which a terminal table wraps the names of its rows."""
_EMPHASIS = re.compile(r"([|*`]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


@dataclass(frozen=True)
class Column:
    """A column's heading of one or more lines.

    Args:
        name: the heading.
        right: whether the cells are aligned right, as numbers are.
        detail: whether the column may be left out: where no row has a value, where all rows have the same (a note
            then gives it), and where a terminal is too narrow.
    """

    name: str
    right: bool = True
    detail: bool = False


@dataclass(frozen=True)
class Table:
    """A titled table of text with notes under it. ``slug`` is the name of its LaTeX file."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    slug: str = ""

    def only(self, indices: Sequence[int]) -> Table:
        """Return the table with these columns alone."""
        rows = [[row[index] for index in indices] for row in self.rows]
        return Table(self.title, [self.columns[index] for index in indices], rows, self.notes, self.slug)

    def folded(self, empty: Sequence[str] = ("",)) -> Table:
        """Return the table without details that are empty or the same in all rows; a note gives the shared values."""
        shared, kept = [], []
        for index, column in enumerate(self.columns):
            values = [row[index] for row in self.rows if row[index] not in empty]
            if not column.detail or len(set(values)) > 1 or len(values) == 1:
                kept.append(index)
            elif values:
                shared.append(f"{column.name.replace(chr(10), ' ')} {values[0]}")
        table = self.only(kept)
        notes = [f"The same in all rows that were run: {'; '.join(shared)}."] if shared else []
        return Table(table.title, table.columns, table.rows, [*notes, *self.notes], self.slug)


class Footnotes:
    """Numbers texts in the order in which they are first referred to."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        """Return the reference to put behind a number, or nothing for an empty text."""
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return f" [{self.texts.index(text) + 1}]"

    def lines(self) -> list[str]:
        """Return the texts with their numbers."""
        return [f"[{number}] {text}" for number, text in enumerate(self.texts, 1)]


def markdown(table: Table) -> str:
    """Return a Markdown table whose source is aligned too, with its notes as a list under it."""
    notes = "\n".join(f"- {note}" for note in table.notes)
    text = _tabulate(_replaced(table, lambda cell: _EMPHASIS.sub(r"\\\1", cell).replace("\n", "<br>")), "pipe")
    return text + (f"\n\n{notes}" if notes else "")


def latex(table: Table) -> str:
    """Return a LaTeX tabular (booktabs), with the title and the notes as comments."""
    text = _tabulate(_replaced(table, lambda cell: cell.replace("\n", " ")), "latex_booktabs")
    for character, command in (("±", r"$\pm$"), ("–", "--"), ("×", r"$\times$")):
        text = text.replace(character, command)
    return "\n".join([f"% {table.title}", text, *(f"% {note}" for note in table.notes)]) + "\n"


def terminal(table: Table, width: int | None) -> str:
    """Return the table as plain text of at most ``width`` columns, or as wide as it needs for None (a file).

    Where there is too little room, names of rows are wrapped first, then details are left out from the right.
    """
    indices = list(range(len(table.columns)))
    text = _tabulate(table, "simple")
    while width is not None and _width(text) > width:
        names = max(len(row[0]) for row in table.rows)
        room = names + width - _width(text)
        details = [index for index in indices if table.columns[index].detail]
        if room < min(names, NARROWEST) and details:
            indices.remove(details[-1])
            text = _tabulate(table.only(indices), "simple")
            continue
        text = _tabulate(table.only(indices), "simple", max(room, NARROWEST))
        break
    notes = [paragraph(f"  {note}", width, "    ") for note in table.notes]
    return "\n".join([table.title, "", text, "", *notes]).strip()


def paragraph(text: str, width: int | None, indent: str = "") -> str:
    """Return Markdown prose as plain text in lines of ``width`` (None: one line), indented from the second on."""
    plain = re.sub("[`*]", "", text)
    if width is None:
        return plain
    return fill(plain, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def terminal_width() -> int | None:
    """Return the width of the terminal that standard output is, or None when it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def _replaced(table: Table, text: Callable[[str], str]) -> Table:
    columns = [Column(text(column.name), column.right) for column in table.columns]
    return Table(table.title, columns, [[text(cell) for cell in row] for row in table.rows])


def _tabulate(table: Table, style: str, room: int | None = None) -> str:
    return tabulate.tabulate(
        table.rows,
        [column.name for column in table.columns],
        tablefmt=style,
        disable_numparse=True,
        colalign=["right" if column.right else "left" for column in table.columns],
        maxcolwidths=[room] if room else None,
    )
