"""Writes a table as Markdown and as LaTeX; ``utils/terminal.py`` has the table itself and prints it."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from normplugins.utils.terminal import Column, Table, format_table

_EMPHASIS = re.compile(r"([|*`]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


def build_table(
    title: str,
    rows: Sequence[Mapping[str, str]],
    texts: Collection[str],
    details: Collection[str] = (),
    notes: Sequence[str] = (),
    slug: str = "",
) -> Table:
    """Build a table from rows that map each heading to the text of its cell, all in the same order.

    ``texts`` are the headings of columns that hold text and not numbers, ``details`` those of columns that may be left
    out; ``slug`` is the name of the LaTeX file.
    """
    columns = [Column(head, head not in texts, head in details) for head in (rows[0] if rows else ())]
    return Table(title, columns, [list(row.values()) for row in rows], notes, slug)


def blank_if_usual(rows: Sequence[Mapping[str, str]], column: str, usual: str) -> Sequence[Mapping[str, str]]:
    """Empty a column in which all rows have the usual text, so that :meth:`Table.folded` leaves it out."""
    return [{**row, column: ""} for row in rows] if all(row[column] == usual for row in rows) else rows


def markdown(table: Table) -> str:
    """Return a Markdown table whose source is aligned too, with its notes as a list under it."""
    notes = "\n".join(f"- {note}" for note in [table.shared, *table.notes] if note)
    text = _tabulate(table, "pipe", lambda cell: _EMPHASIS.sub(r"\\\1", cell).replace("\n", "<br>"))
    return text + (f"\n\n{notes}" if notes else "")


def anchor(heading: str) -> str:
    """Return the target of links to a heading of a Markdown page."""
    return "#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def latex(table: Table) -> str:
    """Return a LaTeX tabular (booktabs), with the title and the notes as comments."""
    text = _tabulate(table, "latex_booktabs", lambda cell: cell.replace("\n", " "))
    for character, command in (("±", r"$\pm$"), ("–", "--"), ("×", r"$\times$")):
        text = text.replace(character, command)
    return "\n".join([f"% {table.title}", text, *(f"% {note}" for note in [table.shared, *table.notes] if note)]) + "\n"


def _tabulate(table: Table, style: str, text: Callable[[str], str]) -> str:
    columns = [replace(column, name=text(column.name)) for column in table.columns]
    rows = [[text(cell) for cell in row] for row in table.rows]
    return format_table(replace(table, columns=columns, rows=rows), style=style)
