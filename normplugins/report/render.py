"""Renders a table as Markdown and as text for a terminal or a log file."""

from __future__ import annotations

import io
import re
import shutil
import sys
from collections.abc import Sequence
from textwrap import fill

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from normplugins.report.parts import Table

_EMPHASIS = re.compile(r"([|*`]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


def markdown(table: Table) -> str:
    """A Markdown table with its notes as a list under it, the source aligned too."""
    head = [column.name.replace("\n", "<br>") for column in table.columns]
    cells = [[_EMPHASIS.sub(r"\\\1", cell) for cell in row] for row in (head, *table.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    sides = [column.right for column in table.columns]
    rule = [f"{'-' * (width - 1)}:" if right else "-" * width for width, right in zip(widths, sides, strict=True)]
    lines = []
    for row in (cells[0], rule, *cells[1:]):
        padded = [
            f"{cell:{'>' if right else '<'}{width}}" for cell, width, right in zip(row, widths, sides, strict=True)
        ]
        lines.append(f"| {' | '.join(padded)} |")
    notes = "\n".join(f"- {note}" for note in table.notes)
    return "\n".join(lines) + (f"\n\n{notes}" if notes else "")


def terminal(table: Table, width: int | None) -> str:
    """The table as plain text; what ``width`` columns cannot hold of the details is left to the page.

    Args:
        table: what to show.
        width: columns of the terminal, or None for a file, where lines may be as long as they need.
    """
    shown = list(range(len(table.columns)))
    text = _draw(table, shown)
    for index in reversed([index for index in shown if table.columns[index].detail]):
        if _fits(text, width):
            break
        shown.remove(index)
        text = _draw(table, shown)
    if width is not None and not _fits(text, width):
        text = _draw(table, shown, width)
    notes = [f"  {note.replace('`', '')}" for note in table.notes]
    if width is not None:
        notes = [fill(note, width, subsequent_indent="    ", break_long_words=False) for note in notes]
    return "\n".join([text, "", *notes]).rstrip()


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is, or None when it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _fits(text: str, width: int | None) -> bool:
    return width is None or max(map(len, text.splitlines())) <= width


def _draw(table: Table, indices: Sequence[int], width: int | None = None) -> str:
    """The columns as text; with a width, names of rows are broken into lines to keep to it."""
    drawn = RichTable(title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index in indices:
        column = table.columns[index]
        drawn.add_column(
            column.name,
            justify="right" if column.right else "left",
            vertical="bottom",
            no_wrap=column.right or width is None,
            overflow="fold",
        )
    for row in table.rows:
        drawn.add_row(*(Text(row[index]) for index in indices))
    console = Console(file=io.StringIO(), width=width or 1000, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")
