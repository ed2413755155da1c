"""Formats tables and text for a terminal of any width: no number is cut, and each number keeps its heading."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import tabulate

tabulate.MIN_PADDING = 0  # otherwise every column is two characters wider than its heading needs
GAP = 2
"""Spaces between two columns."""
NARROWEST = 14
"""The smallest width, in characters, to which a column of text is wrapped."""


@dataclass(frozen=True)
class Column:
    """A column's heading of one or more lines.

    Args:
        name: the heading.
        right: whether the cells are right-aligned, as numbers are. Other cells are text, which may be wrapped.
        detail: whether the column may be left out: if no row has a value, if all rows have the same value (a line above
            the table then gives it), or if the terminal is too narrow.
    """

    name: str
    right: bool = True
    detail: bool = False

    @property
    def title(self) -> str:
        """The heading in one line."""
        return self.name.replace("\n", " ")


@dataclass(frozen=True)
class Table:
    """A titled table of text, with the values that all rows share above it, and notes below it.

    ``slug`` is the name of its LaTeX file.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    slug: str = ""
    shared: str = ""

    def only(self, indices: Sequence[int]) -> Table:
        """Return the table with only these columns."""
        rows = [[row[index] for index in indices] for row in self.rows]
        return replace(self, columns=[self.columns[index] for index in indices], rows=rows)

    def folded(self, empty: Sequence[str] = ("",)) -> Table:
        """Return the table without details that are empty or the same in all rows; ``shared`` lists the latter."""
        shared, kept = [], []
        for index, column in enumerate(self.columns):
            values = [row[index] for row in self.rows if row[index] not in empty]
            if not column.detail or len(set(values)) > 1 or len(values) == 1:
                kept.append(index)
            elif values:
                shared.append(f"{column.title} {values[0]}")
        same = f"All rows with a value: {'; '.join(shared)}." if shared else ""
        return replace(self.only(kept), shared=same)


class _CellWrapper(textwrap.TextWrapper):
    """Breaks lines at spaces, and in setting names and paths after a comma, a dot, "=" or "/"; never in a number."""

    wordsep_simple_re = re.compile(r"(\s+|(?<=[,.=/])(?=[^\W\d]))")


def terminal_width() -> int | None:
    """Return the width of the terminal, or None if standard output is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def paragraph(text: str, width: int | None, indent: str = "") -> str:
    """Return Markdown prose as plain text in lines of ``width`` (None: one line), indented from the second line on."""
    return wrap(re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", re.sub("[`*]", "", text)), width, indent)


def wrap(
    text: str, width: int | None, indent: str = "", kind: type[textwrap.TextWrapper] = textwrap.TextWrapper
) -> str:
    """Break each line of a text into lines of ``width`` characters, indented from the second on.

    A longer word stays whole, except in cells of tables (``kind``). If ``width`` is None, the text is not changed.
    """
    if width is None:
        return text
    wrapper = kind(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join("\n".join(wrapper.wrap(line)) for line in text.split("\n"))


def say(text: str) -> None:
    """Print lines. A line wider than the terminal is wrapped, and indented from its second line on."""
    print(wrap(text, terminal_width(), "    "))


def terminal(table: Table, width: int | None) -> str:
    """Return the table as plain text of at most ``width`` characters, or of any width if it is None (for a file).

    If the table is too wide, text is wrapped first, then details are left out from the right, with a note that names
    them. If the other columns still do not fit, each row becomes a block with a line for each of its values. A line is
    longer than ``width`` only if a single word is.
    """
    notes, shown = list(table.notes), list(range(len(table.columns)))
    rooms = _column_widths(table, width)
    while not rooms and (details := [index for index in shown if table.columns[index].detail]):
        shown.remove(details[-1])
        rooms = _column_widths(table.only(shown), width)
    if rooms:
        text = format_table(table.only(shown), rooms)
        left_out = [column.title for index, column in enumerate(table.columns) if index not in shown]
        notes += [f"Not shown in {width} columns: {', '.join(left_out)}."] if left_out else []
    else:
        text = _stacked(table, width)
    notes = [paragraph(f"  {note}", width, "    ") for note in notes]
    above = [part for part in (table.title, table.shared) if part]
    parts = [paragraph(part, width) for part in above] + [text]
    return "\n".join(["\n\n".join(parts), "", *notes]).strip()


def definitions(rows: Mapping[str, str], width: int | None) -> str:
    """Return names with their descriptions, in two columns or, on a narrow terminal, one below the other."""
    names = max((len(name) for name in rows), default=0) + GAP
    if width is not None and names + 2 > width / 2:
        return "\n".join(f"{wrap(name, width)}\n{_block(text, width, 4)}" for name, text in rows.items())
    return "\n".join(
        f"  {name:<{names}}{_block(text, width, names + 2).lstrip()}".rstrip() for name, text in rows.items()
    )


def _block(text: str, width: int | None, indent: int) -> str:
    return textwrap.indent(wrap(text, None if width is None else max(1, width - indent)), " " * indent)


def format_table(table: Table, rooms: Sequence[int] = (), style: str = "simple") -> str:
    """Return a table in one of tabulate's formats, with text wrapped to the column widths ``rooms``, if given."""

    def fitted(cell: str, column: Column, room: int | None) -> str:
        if column.right or room is None or len(cell) <= room:
            return cell
        return wrap(cell, room, kind=textwrap.TextWrapper if _longest(cell.split()) <= room else _CellWrapper)

    widths: Sequence[int | None] = rooms or [None] * len(table.columns)
    return tabulate.tabulate(
        [[fitted(*each) for each in zip(row, table.columns, widths, strict=True)] for row in table.rows],
        [column.name for column in table.columns],
        tablefmt=style,
        disable_numparse=True,
        colalign=["right" if column.right else "left" for column in table.columns],
    )


def _column_widths(table: Table, width: int | None) -> list[int]:
    """Return the width of each column at which the table fits, or an empty list if it cannot fit."""
    headings = [_longest(column.name.splitlines()) for column in table.columns]
    cells = [[line for row in table.rows for line in row[index].splitlines()] for index in range(len(headings))]
    rooms = [max(heading, _longest(lines)) for heading, lines in zip(headings, cells, strict=True)]
    if width is None:
        return rooms
    free = width - GAP * (len(rooms) - 1)

    def least(index: int, kind: type[textwrap.TextWrapper]) -> int:
        words = [word for cell in cells[index] for word in wrap(cell, 1, kind=kind).splitlines()]
        narrowest = max(headings[index], _longest(words), min(rooms[index], NARROWEST))
        return rooms[index] if table.columns[index].right else narrowest

    for kind in (textwrap.TextWrapper, _CellWrapper):  # a name of a setting is broken only if nothing else helps
        limits = [least(index, kind) for index in range(len(rooms))]
        if sum(limits) <= free:
            break
    else:
        return []
    while sum(rooms) > free:
        index = max((each for each in range(len(rooms)) if rooms[each] > limits[each]), key=rooms.__getitem__)
        rooms[index] -= 1
    return rooms


def _stacked(table: Table, width: int | None) -> str:
    blocks = []
    for name, *cells in table.rows:
        named = zip(table.columns[1:], cells, strict=True)
        lines = [wrap(f"  {column.title}: {cell}", width, "    ", _CellWrapper) for column, cell in named if cell]
        blocks.append("\n".join([wrap(name, width, kind=_CellWrapper), *lines]))
    return "\n\n".join(blocks)


def _longest(lines: Sequence[str]) -> int:
    return max(map(len, lines), default=0)
