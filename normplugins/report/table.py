"""A table of text, and how it is written as Markdown, as LaTeX and for a terminal."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
        return replace(self, columns=[self.columns[index] for index in indices], rows=rows)

    def folded(self, empty: Sequence[str]) -> Table:
        """Return the table without details that are empty or the same in all rows; a note gives the shared values."""
        shared, kept = [], []
        for index, column in enumerate(self.columns):
            values = [row[index] for row in self.rows if row[index] not in empty]
            if not column.detail or len(set(values)) > 1 or len(values) == 1:
                kept.append(index)
            elif values:
                shared.append(f"{column.name.replace(chr(10), ' ')} {values[0]}")
        notes = [f"The same in all rows that were run: {'; '.join(shared)}."] if shared else []
        return replace(self.only(kept), notes=[*notes, *self.notes])


def markdown(table: Table) -> str:
    """Return a Markdown table whose source is aligned too, with its notes as a list under it."""
    notes = "\n".join(f"- {note}" for note in table.notes)
    text = _tabulate(table, "pipe", lambda cell: _EMPHASIS.sub(r"\\\1", cell).replace("\n", "<br>"))
    return text + (f"\n\n{notes}" if notes else "")


def latex(table: Table) -> str:
    """Return a LaTeX tabular (booktabs), with the title and the notes as comments."""
    text = _tabulate(table, "latex_booktabs", lambda cell: cell.replace("\n", " "))
    for character, command in (("±", r"$\pm$"), ("–", "--"), ("×", r"$\times$")):
        text = text.replace(character, command)
    return "\n".join([f"% {table.title}", text, *(f"% {note}" for note in table.notes)]) + "\n"


def terminal(table: Table, width: int | None) -> str:
    """Return the table as plain text of at most ``width`` columns, or as wide as it needs for None (a file).

    Where there is too little room, names of rows are wrapped first, then details are left out from the right.
    """
    text = _tabulate(table, "simple")
    names = max(len(row[0]) for row in table.rows)
    shown = list(range(len(table.columns)))
    while width is not None and (excess := max(map(len, text.splitlines())) - width) > 0:
        details = [index for index in shown if table.columns[index].detail]
        if names - excess >= min(names, NARROWEST) or not details:
            text = _tabulate(table.only(shown), "simple", room=max(names - excess, NARROWEST))
            break
        shown.remove(details[-1])
        text = _tabulate(table.only(shown), "simple")
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


def _tabulate(table: Table, style: str, text: Callable[[str], str] = str, room: int | None = None) -> str:
    return tabulate.tabulate(
        [[text(cell) for cell in row] for row in table.rows],
        [text(column.name) for column in table.columns],
        tablefmt=style,
        disable_numparse=True,
        colalign=["right" if column.right else "left" for column in table.columns],
        maxcolwidths=[room] if room else None,
    )
