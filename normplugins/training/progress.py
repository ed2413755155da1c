"""How a run shows where it is: a live bar on a terminal, plain lines in a file."""

import math
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from typing_extensions import Self

LOG = "train.log"
"""The file in a run's folder with every line of progress."""


class Progress:
    """Shows updates of a run with loss, speed and time left.

    Args:
        title: what is running, such as ``iwslt14 pn seed 1``.
        total: the number of updates after which training ends at the latest, or None when only patience ends it.
        done: updates already made, by the run that this one continues.
        silent: show nothing (every process of a run but the first).
        log: a file that gets every line too, also those that a live bar stands for.
    """

    def __init__(
        self, title: str, total: int | None, done: int = 0, silent: bool = False, log: Path | None = None
    ) -> None:
        self.log = log
        self.console = Console(quiet=silent, soft_wrap=True, highlight=False)
        self.title = title
        self.total = total
        self.bar: RichProgress | None = None
        if self.console.is_terminal:
            self.bar = RichProgress(
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task("", total=total, completed=done, figures="")

    def __enter__(self) -> Self:
        self.line(self.title)  # above the bar, which has 80 columns for loss, speed and time left
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, update: int, loss: float, words_per_second: float) -> None:
        """Move the bar to this update; a file shows only what ``figures`` and ``line`` say."""
        if self.bar:
            figures = f"loss {loss:.3f}  {words_per_second:,.0f} words/s"
            self.bar.update(self.task, completed=update, figures=figures)

    def figures(
        self, epoch: int, update: int, loss: float, ppl: float | None, words_per_second: float, pace: float
    ) -> None:
        """What the bar shows, as a line of a file. ``pace``: seconds per update, of which the time left is made."""
        left = f"  left {clock(pace * (self.total - update))}" if self.total else ""
        of = f"/{self.total}" if self.total else ""
        text = (
            f"epoch {epoch:3d}  update {update:6d}{of}  loss {loss:7.3f}  ppl {math.nan if ppl is None else ppl:9.2f}  "
            f"{words_per_second:9,.0f} words/s{left}"
        )
        if self.bar:
            self._write(text)
        else:
            self.line(text)

    def line(self, text: str) -> None:
        """A line that stays, above the bar on a terminal."""
        self.console.print(text, markup=False)
        self._write(text)

    def _write(self, text: str) -> None:
        if self.log:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
