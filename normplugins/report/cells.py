"""Groups runs that differ only in the seed into cells, and formats the numbers of cells for tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from normplugins.evaluation.student import interval_of_mean
from normplugins.report.metrics import METRICS
from normplugins.report.records import CELL, WHOLE_TEST_SET, distinct

SPREAD_SEEDS = 3
"""The smallest number of seeds for which a standard deviation is reported."""
NOT_SCORED, ALL_DIVERGED = "not scored", "diverged"
COMPARED_WITH = {"ln": "ln with the same other settings", "usual setting": "the same norm with the usual setting"}
"""What the cells of a figure are compared with, by its short name."""


class Cell:
    """Runs that differ only in the seed and the machine, made from their rows in the table of results.

    ``common`` are the settings of all cells beside which this one stands; its names leave them out.
    """

    def __init__(self, rows: pd.DataFrame, common: Sequence[str] = ()) -> None:
        self.rows, self.common = rows, common
        every = rows.drop_duplicates("seed")
        self.runs = every[every["diverged"] == ""]
        self.diverged = len(every) - len(self.runs)
        self.first: Any = (self.runs if len(self.runs) else every).iloc[0]

    @property
    def label(self) -> str:
        """The norm, the language model, the own settings, and the length of a schedule that not all cells have."""
        name = ", ".join(filter(None, [self.first["norm"], self.first["model"], *self.own_settings]))
        short = self.first["budget"] and f"budget={self.first['budget']}" not in self.common
        return name + (f", shortened to {self.updates} updates" if short and len(self.runs) else "")

    @property
    def own_settings(self) -> list[str]:
        """The settings, such as ``norm.groups=4``, that not all cells have."""
        return [item for item in self.first["settings"].split(", ") if item not in self.common]

    def values(
        self, metric: str, checkpoint: str = "", test_set: str = WHOLE_TEST_SET, column: str = "value"
    ) -> pd.Series[Any]:
        """Return a score of every run by seed, or an empty series if a run lacks it.

        An empty ``checkpoint`` stands for the one that the recipe is scored by. ``column`` is ``value``, or ``brevity``
        for BLEU's brevity penalty.
        """
        rows = self.rows[(self.rows["metric"] == metric) & (self.rows["test_set"] == test_set)].set_index("seed")
        found = rows.loc[rows["checkpoint"] == (checkpoint or rows["scored_by"]), column].dropna()
        return found if len(found) == len(self.runs) else found.iloc[:0]

    def score(self, metric: str, checkpoint: str = "", test_set: str = WHOLE_TEST_SET) -> str:
        """Return the mean over the seeds and, from ``SPREAD_SEEDS`` seeds on, the sample standard deviation."""
        if not len(self.runs):
            return ALL_DIVERGED
        found = self.values(metric, checkpoint, test_set)
        return NOT_SCORED if found.empty else mean_and_spread(found)

    @property
    def seeds(self) -> str:
        """The number of seeds in the means, and how many diverged."""
        count = str(len(self.runs))
        return count + (f" ({self.diverged} of {len(self.runs) + self.diverged} diverged)" if self.diverged else "")

    def brevity(self, metric: str) -> str:
        """Return the mean brevity penalty over the seeds, or an empty string for a metric without one."""
        found = self.values(metric, column="brevity")
        return "" if found.empty else f"{found.mean():.3f}"

    @property
    def valid_ppl(self) -> str:
        """The mean over the seeds of the lowest perplexity on the validation set."""
        found = self.runs["valid_ppl"].dropna()
        return "" if found.empty else f"{found.mean():.2f}"

    @property
    def updates(self) -> str:
        """The number of updates of the runs, or the lowest and the highest number if the runs differ."""
        counts = self.runs["updates"]
        return "–".join(f"{count:,.0f}" for count in dict.fromkeys((counts.min(), counts.max()))) if len(counts) else ""

    def each(self, column: str) -> str:
        """Return the distinct texts of a column of the runs."""
        return distinct(self.runs[column])


def mean_and_spread(scores: Sequence[float] | pd.Series[Any]) -> str:
    """Return the mean over seeds and, from ``SPREAD_SEEDS`` seeds on, the sample standard deviation."""
    spread = f" ± {np.std(scores, ddof=1):.2f}" if len(scores) >= SPREAD_SEEDS else ""
    return f"{np.mean(scores):.2f}{spread}"


def group(results: pd.DataFrame) -> list[Cell]:
    """Group a table of results into cells, in the order of its rows."""
    cells = [rows for _, rows in results.groupby(CELL, sort=False)] if len(results) else []
    settings = [[*rows["settings"].iloc[0].split(", "), f"budget={rows['budget'].iloc[0]}"] for rows in cells]
    common = [item for item in settings[0] if "=" in item and all(item in each for each in settings)] if cells else []
    return [Cell(rows, common if len(cells) > 1 else ()) for rows in cells]


def runs_that_diverged(cells: Sequence[Cell]) -> list[str]:
    """Return a note on the cells with runs that diverged, which a figure does not show."""
    lost = [f"{cell.label} ({cell.diverged} of {len(cell.runs) + cell.diverged})" for cell in cells if cell.diverged]
    return [f"runs that diverged: {'; '.join(lost)}"] if lost else []


def shared_settings(cells: Sequence[Cell]) -> list[str]:
    """Return a note on the settings that all cells of a table or a figure have, and that their names leave out."""
    settings = [item for item in (cells[0].common if cells else ()) if not item.startswith("budget=")]
    return [f"All runs: {', '.join(settings)}."] if settings else []


def baseline(cell: Cell, cells: Iterable[Cell]) -> Cell | None:
    """Return the LN cell that differs from ``cell`` only in the norm and its settings, if there is one."""
    for other in cells:
        plain = other.first["norm"] == "ln" and "norm." not in other.first["settings"]
        if plain and other is not cell and _identity(other, norm=False) == _identity(cell, norm=False):
            return other
    return None


def references(cells: Sequence[Cell]) -> tuple[str, list[Cell | None]]:
    """Return what figures compare the cells with: a key of ``COMPARED_WITH``, and the reference of each cell or None.

    The key is "usual setting" if every norm has both a cell with its usual settings and one with another setting that
    is not the norm's, as in the plan of precisions. Otherwise it is "ln".
    """
    plain = [_identity(cell, others=False) for cell in cells]
    usual = {each: cell for each, cell in zip(plain, cells, strict=True) if each == _identity(cell)}
    varied = [None if each == _identity(cell) else usual.get(each) for each, cell in zip(plain, cells, strict=True)]
    if {cell.first["norm"] for cell in varied if cell} == {cell.first["norm"] for cell in cells}:
        return "usual setting", varied
    return "ln", [baseline(cell, cells) for cell in cells]


def difference(cell: Cell, cells: Iterable[Cell], metric: str, checkpoint: str = "", interval: bool = False) -> str:
    """Return the mean difference from the LN cell that differs only in the norm and its settings; "" if there is none.

    With ``interval``, the 95 % interval over the common seeds follows, from ``SPREAD_SEEDS`` seeds on.
    """
    other = baseline(cell, cells)
    if other is None:
        return ""
    paired = (cell.values(metric, checkpoint) - other.values(metric, checkpoint)).dropna()
    mean = "" if paired.empty else f"{paired.mean():+.2f}"
    if not interval or len(paired) < SPREAD_SEEDS:
        return mean
    low, high = interval_of_mean(list(paired))
    return f"{mean} [{low:+.2f}, {high:+.2f}]"


def duration(seconds: float) -> str:
    """Format a duration in seconds: ``48 s``, ``14 min``, ``3 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def signatures(cells: Sequence[Cell], metrics: Iterable[str]) -> list[str]:
    """Return a line for each metric and signature; it names the rows if the metric has several signatures.

    Rows of a language model are named by the model if they all have the same signature.
    """
    if not cells:
        return []
    rows, lines = pd.concat([cell.rows.assign(label=cell.label) for cell in cells]), []
    for metric in metrics:
        found = rows[(rows["metric"] == metric) & (rows["signature"] != "")]
        alike = (found["model"] != "") & (found.groupby("model")["signature"].transform("nunique") == 1)
        names = found["model"].where(alike, found["label"]).groupby(found["signature"], sort=False)
        for signature, members in names:
            which = f" ({'; '.join(members.unique())})" if len(names) > 1 else ""
            lines.append(f"{''.join(METRICS.get(metric, (metric,)))}{which}: `{signature}`")
    return lines


def _identity(cell: Cell, norm: bool = True, others: bool = True) -> tuple[str, ...]:
    """Return what identifies a cell. ``norm`` includes the norm and its settings; ``others``, all other settings."""
    given = filter(None, cell.first["settings"].split(", "))
    settings = [item for item in given if (norm if item.startswith("norm.") else others or "=" not in item)]
    return (*(cell.first[key] for key in CELL if key != "settings" and (norm or key != "norm")), *settings)
