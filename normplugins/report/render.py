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

NARROWEST = 14  # characters of a row's name: no number is worth names cut smaller
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

    Names of rows are broken into lines before a detail is left out, down to ``NARROWEST`` characters.

    Args:
        table: what to show.
        width: columns of the terminal, or None for a file, where lines may be as long as they need.
    """
    shown = list(range(len(table.columns)))
    text = _draw(table, shown)
    if width is not None:
        while True:
            names = max(len(row[0]) for row in (["norm"], *table.rows))
            room = names + width - max(map(len, text.splitlines()))
            details = [index for index in shown if table.columns[index].detail]
            if room >= min(names, NARROWEST) or not details:
                break
            shown.remove(details[-1])
            text = _draw(table, shown)
        if room < names:
            text = _draw(table, shown, max(room, NARROWEST))
    notes = [paragraph(f"  {note}", width, "    ") for note in table.notes]
    return "\n".join([text, "", *notes]).rstrip()


def paragraph(text: str, width: int | None, indent: str = "") -> str:
    """Markdown prose as plain text in lines of ``width`` (None: one line), all but the first after an ``indent``."""
    plain = re.sub("[`*]", "", text)
    if width is None:
        return plain
    return fill(plain, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is, or None when it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _broken(name: str, room: int) -> str:
    """A row's name in lines of at most ``room`` characters, broken after a space, a dot, a comma or an equals sign."""
    lines = [""]
    for piece in re.findall(rf"[^ .,=]{{0,{room - 1}}}[ .,=]|[^ .,=]{{1,{room}}}", name):
        if len((lines[-1] + piece).rstrip()) > room:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _draw(table: Table, indices: Sequence[int], room: int | None = None) -> str:
    """The columns as text; with a ``room``, names of rows are broken into lines of so many characters."""
    drawn = RichTable(title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index in indices:
        column = table.columns[index]
        drawn.add_column(
            column.name, justify="right" if column.right else "left", vertical="bottom", no_wrap=True, overflow="fold"
        )
    for row in table.rows:
        cells = [row[index] for index in indices]
        drawn.add_row(*map(Text, [_broken(cells[0], room) if room else cells[0], *cells[1:]]))
    console = Console(file=io.StringIO(), width=1000, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")
