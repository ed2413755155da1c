"""Draws the final scores of an experiment with their 95 % intervals, and beside them the differences to LN."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normplugins.report import intervals, style
from normplugins.report.cells import METRICS, Cell, baseline, group
from normplugins.report.contrasts import Contrast, find
from normplugins.report.figures import name_of

HEADLINES = ("bleu", "bleu_compound", "ppl")
LOG_FROM = 4
"""Where the highest score is so many times the lowest, the axis of the scores is logarithmic."""
KINDS = {  # what an interval follows from
    "seeds": "━●━ several seeds: 95 % intervals over seeds",
    "sentences": "─○─ one seed: 95 % intervals over sentences only, not over seeds",
    "": "○ without a bar: one seed without published translations",
}
PAIRED = "minus ln: paired by seed; for several seeds (●) over seeds and sentences"


@dataclass(frozen=True)
class Score:
    """A cell's score, and what its interval follows from."""

    cell: Cell
    metric: str
    results: Path

    @cached_property
    def seeds(self) -> list[float]:
        """The score of each seed."""
        return [float(value) for value in self.cell.values(self.metric)]

    @cached_property
    def resampled(self) -> np.ndarray | None:
        """The scores of resampled test sets, for one seed whose translations are published."""
        first = self.cell.first
        path = self.results / "runs" / first["experiment"] / first["variant"]
        path = path / f"seed{first['seed']}.{first['scored_by']}.tsv.gz"
        usable = len(self.seeds) == 1 and self.metric != "ppl" and path.exists()
        return intervals.resampled_bleu(path) if usable else None

    @property
    def kind(self) -> str:
        """What the interval follows from: ``seeds``, ``sentences``, or empty for a score without one."""
        return "seeds" if len(self.seeds) > 1 else "" if self.resampled is None else "sentences"

    @property
    def interval(self) -> tuple[float, float] | None:
        """The bounds of the 95 % interval."""
        if len(self.seeds) > 1:
            middle, half = float(np.mean(self.seeds)), intervals.mean_interval(self.seeds)
            return middle - half, middle + half
        return None if self.resampled is None else intervals.middle(self.resampled)


def final_scores(results: pd.DataFrame, folder: Path) -> Figure | None:
    """Return a dot plot of the test scores of the runs of one experiment; None where no score has an interval.

    Args:
        results: the rows of one experiment and budget.
        folder: the folder of the results, with the published translations.

    Raises:
        UserError: a record or its translations are damaged, or two cells cannot be compared.
    """
    cells = [cell for cell in group(results) if len(cell.runs)]
    metric = next((name for name in HEADLINES if any(len(cell.values(name)) for cell in cells)), None)
    if metric is None:
        return None
    scores = [Score(cell, metric, folder) for cell in cells if len(cell.values(metric))]
    if not any(score.kind for score in scores):
        return None
    first = scores[0].cell.first
    lns = [baseline(score.cell, cells) for score in scores]
    pairs = [
        Contrast(s.cell.first["variant"], ln.first["variant"], "") for s, ln in zip(scores, lns, strict=True) if ln
    ]
    found = find(folder, first["scored_by"], first["experiment"], pairs) if pairs and metric != "ppl" else []
    minus_ln = {each.contrast.system: each for each in found if each.difference}
    name = "".join(METRICS[metric]) if metric != "ppl" else "perplexity"
    names = [name_of(score.cell) for score in scores]
    lines = sum(max(2, label.count("\n") + 1) for label in names)
    title = f"{first['experiment']}: test {name}, {first['scored_by']} checkpoint"
    notes = [text for kind, text in KINDS.items() if any(score.kind == kind for score in scores)]
    notes = [f"{'lower' if metric == 'ppl' else 'higher'} is better", *notes, *([PAIRED] if minus_ln else [])]
    with style.drawing():
        figure = style.new_figure(0.17 * (lines + len(notes) + 2) + 1)
        axes = figure.subplots(1, 2 if minus_ln else 1, sharey=True, squeeze=False)[0]
        style.heading(figure, title, notes)
        for row, score in enumerate(scores):
            _dot(axes[0], row, score.cell, float(np.mean(score.seeds)), score.interval, len(score.seeds))
            pair = minus_ln.get(score.cell.first["variant"])
            if pair is not None and pair.difference is not None:
                _dot(axes[1], row, score.cell, pair.difference.mean, pair.interval, pair.seeds)
        logarithmic = max(max(s.seeds) for s in scores) > LOG_FROM * min(min(s.seeds) for s in scores) > 0
        if logarithmic:
            axes[0].set_xscale("log")
        else:
            axes[0].xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        short = METRICS[metric][0] if metric != "ppl" else "perplexity"
        axes[0].set_xlabel(f"{short}, {'log' if logarithmic else 'linear'}")
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        if len(axes) > 1:
            axes[1].axvline(0, color=style.GREY, linewidth=1)
            axes[1].set_xlabel(f"{short} minus ln, linear")
            axes[1].xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            axes[1].tick_params(left=False)
    return figure


def _dot(axis: Axes, row: int, cell: Cell, value: float, bounds: tuple[float, float] | None, seeds: int) -> None:
    colour = style.colour(cell.first["norm"])
    if bounds is not None:
        axis.plot(bounds, [row, row], color=colour, linewidth=2.8 if seeds > 1 else 1, solid_capstyle="butt")
    axis.plot(value, row, "o", color=colour, markersize=6, mfc=colour if seeds > 1 else "white")
