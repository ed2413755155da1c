"""The display of a run's progress: a live bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rich import progress
from rich.console import Console
from typing_extensions import Self

if TYPE_CHECKING:  # the history imports torch, which a reader of the log does not need
    from normplugins.training.history import History

LOG = "train.log"
"""The file in a run's folder that gets every line of progress."""


class Progress:
    """Shows how far a run is, with its loss, speed and time left.

    Args:
        title: what is running, such as ``iwslt14 pn seed 1``.
        total: number of updates after which the run ends at the latest, or None if only patience ends it.
        done: number of updates that a resumed run made before; 0 for a new run.
        log: a file that gets every line, including the lines that a bar replaces; None: show and write nothing.
    """

    def __init__(self, title: str, total: int | None, done: int, log: Path | None) -> None:
        self.title, self.total, self.log = title, total, log
        self.console = Console(quiet=log is None, soft_wrap=True, highlight=False)
        self.bar = progress.Progress(
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[figures]}"),
            progress.TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=total, completed=done, figures="")

    def __enter__(self) -> Self:
        self.line(self.title)  # not in the bar, whose 80 columns are for loss, speed and time left
        self.bar.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.bar.stop()

    def step(self, history: History, loss: float) -> None:
        """Move the bar to the newest update."""
        text = f"loss {loss:.3f}  {history.words_per_second:,.0f} words/s"
        self.bar.update(self.task, completed=history.updates, figures=text)

    def point(self, history: History) -> None:
        """Write a line with the newest point of the training curve; on a terminal only to the file."""
        point, updates = history.train[-1], history.updates
        of, left = "", ""
        if self.total:
            seconds = round(history.wall_seconds / updates * (self.total - updates))
            of, left = f"/{self.total}", f"  left {timedelta(seconds=seconds)}"
        ppl = math.nan if point["ppl"] is None else point["ppl"]
        text = f"epoch {history.epoch:3d}  update {updates:6d}{of}  loss {point['loss']:7.3f}  ppl {ppl:9.2f}  "
        self.line(f"{text}{history.words_per_second:9,.0f} words/s{left}", shown=self.bar.disable)

    def line(self, text: str, shown: bool = True) -> None:
        """Write a line, on a terminal above the bar."""
        if shown:
            self.console.print(text, markup=False)
        if self.log:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")
