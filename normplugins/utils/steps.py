"""Shows the progress of long steps: live on a terminal, as plain lines in a file."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import TypeVar

from rich import progress as columns
from rich.console import Console
from rich.table import Column
from rich.text import Text

T = TypeVar("T")
Echo = Callable[[str], None]
LINE_EVERY = 60.0
"""Seconds between two plain lines of a long step."""
_CONSOLE = Console(stderr=True)  # one for all displays, because two on one terminal would overwrite each other


@contextmanager
def step(title: str, echo: Echo | None = print) -> Iterator[Echo]:
    """Show that a step of unknown length is running: its title and the time that has passed.

    ``echo`` prints the plain line at the start, which is left out on a terminal; it is None for a command whose
    standard output is data. Yields a function that changes the title on a terminal, for a step that has parts.
    """
    _line(title, echo)
    text = columns.TextColumn("{task.description}", table_column=Column(no_wrap=False))
    bar = live_display(columns.SpinnerColumn(), text, columns.TimeElapsedColumn())
    task = bar.add_task(title, total=None)
    with bar:
        yield lambda text: bar.update(task, description=text)


def loading() -> AbstractContextManager[Echo]:
    """Show on a terminal that packages are being imported, which takes seconds."""
    return step("loading PyTorch and fairseq", echo=None)


def progress(
    items: Iterable[T], title: str, unit: str = "batches", total: int | None = None, echo: Echo | None = print
) -> Iterator[T]:
    """Iterate over ``items`` and show how many are done and how long the rest will take.

    ``total`` is the number of items, if ``items`` has no length. ``echo`` prints the plain lines, as for :func:`step`.
    """
    total = len(items) if total is None and isinstance(items, Sized) else total
    _line(f"{title}: {total:,} {unit}" if total is not None else title, echo)
    bar = live_display(columns.BarColumn(bar_width=12), _Figures(table_column=Column(no_wrap=False)))
    task = bar.add_task(title, total=total, unit=unit)
    begun = shown = time.monotonic()
    with bar:
        for done, item in enumerate(items, 1):
            yield item
            bar.update(task, completed=done)
            now = time.monotonic()
            if total and now - shown >= LINE_EVERY:
                shown = now
                minutes = (now - begun) / done * (total - done) / 60
                _line(f"{title}: {done:,} of {total:,} {unit}, about {minutes:.0f} minutes left", echo)


class _Figures(columns.ProgressColumn):
    """The progress of a step in words, which a narrow terminal wraps without cutting a number."""

    def render(self, task: columns.Task) -> Text:
        """Return the title, the number of items that are done, and the time that is left."""
        total = f" of {task.total:,.0f}" if task.total is not None else ""
        left = f", {timedelta(seconds=round(task.time_remaining))} left" if task.time_remaining is not None else ""
        return Text(f"{task.description}: {task.completed:,.0f}{total} {task.fields['unit']}{left}")


def live_display(*shown: columns.ProgressColumn) -> columns.Progress:
    """Return a display that a terminal shows while it is entered; one inside another appears below it."""
    redirected = sys.stdout.isatty()  # prints appear above the display; output to a file is left alone
    return columns.Progress(
        *shown, console=_CONSOLE, transient=True, redirect_stdout=redirected, disable=not _CONSOLE.is_terminal
    )


def _line(text: str, echo: Echo | None) -> None:
    """Print a plain line, unless a live display on the same terminal shows it."""
    if echo and not (sys.stderr.isatty() and sys.stdout.isatty()):
        echo(text)
