"""Benchmarks in the terminal: a table as soon as a case is measured."""

from __future__ import annotations

from collections.abc import Sequence

from normplugins.bench.timing import Timing
from normplugins.report.parts import Column, Table
from normplugins.report.render import terminal, terminal_width


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    """Print a table under its title: the first column is a name, the others are numbers."""
    columns = [Column(name, right=index > 0) for index, name in enumerate(head)]
    print(f"{title}\n{terminal(Table('', columns, rows, notes), terminal_width())}\n", flush=True)


def ms(timing: Timing) -> str:
    """The median in ms, and the 20th and 80th percentile: ``1.45 (1.41–1.52)``."""
    return f"{_digits(timing.median)} ({_digits(timing.p20)}–{_digits(timing.p80)})"


def _digits(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:,.{0 if value >= 1000 else 1 if value >= 100 else 2}f}"
