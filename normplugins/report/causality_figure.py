"""Draws results/figures/causality.png: a row a run, its perplexity with either future, and how much was seen of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator

from normplugins.report.causality_records import MODES, Cell
from normplugins.report.figures import STYLE, colour

SMALLEST = 1e-8  # nats: no two log-probabilities in float32 differ by less in the mean; below it the axis goes to 0
LOOKS: dict[str, dict[str, Any]] = {
    "evaluation": {"marker": "o", "markersize": 7},
    "training": {"marker": "s", "markersize": 7, "markerfacecolor": "white"},
    "training_in_warmup": {"marker": "^", "markersize": 8, "markerfacecolor": "white"},
}
LINES = {"evaluation": "-", "training": "--", "training_in_warmup": ":"}
TRUE: dict[str, Any] = {"marker": "o", "markersize": 4}
REPLACED: dict[str, Any] = {"marker": "o", "markersize": 10, "markerfacecolor": "none"}


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Write the PNG of at least one cell; the same records give the same bytes with the same version of matplotlib."""
    modes = [name for name in MODES if any(name in cell.modes for cell in cells)]
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(15, 3.6 + 0.34 * len(cells)), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        perplexities, changes, distances = figure.subplots(1, 3)
        _perplexities(perplexities, cells)
        _changes(changes, cells, modes)
        _by_distance(distances, cells)
        for axis in (perplexities, changes):
            axis.set_ylim(len(cells) - 0.4, -0.6)
            axis.set_yticks(range(len(cells)), [""] * len(cells))
        perplexities.set_yticklabels(_names(cells))
        for label, cell in zip(perplexities.get_yticklabels(), cells, strict=True):
            label.set_color(colour(cell.norm))
        entries = [(TRUE, "", "perplexity, true future"), (REPLACED, "", "perplexity, replaced future")]
        entries += [(LOOKS[name], LINES[name], f"change, {MODES[name]}") for name in modes]
        handles = [Line2D([], [], color="dimgrey", linestyle=line, label=text, **look) for look, line, text in entries]
        figure.legend(handles=handles, loc="outside lower center", ncols=5)
        figure.savefig(path, format="png", metadata={"Software": None})


def _names(cells: Sequence[Cell]) -> list[str]:
    """The norm and the model, and the run where there are several: as much of it as has room."""
    several = len({cell.run for cell in cells}) > 1
    runs = [cell.run if len(cell.run) <= 45 else f"{cell.run[:44]}…" for cell in cells]
    return [f"{cell.norm}, {cell.model.name}" + f"\n{run}" * several for cell, run in zip(cells, runs, strict=True)]


def _perplexities(axis: Axes, cells: Sequence[Cell]) -> None:
    for row, cell in enumerate(cells):
        mode = cell.modes["evaluation"]
        shade = colour(cell.norm)
        axis.plot([mode.ppl_true, mode.ppl_replaced], [row, row], color=shade, linewidth=1.2)
        axis.plot(mode.ppl_true, row, color=shade, **TRUE)
        axis.plot(mode.ppl_replaced, row, color=shade, **REPLACED)
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(MaxNLocator(5) if high < 10 * low else LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_minor_locator(FixedLocator([]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value < 1e6 else f"{value:.0e}"))
    axis.set_title("In evaluation: perplexity with the true future\nand with a replaced one")
    axis.set_xlabel("perplexity; a dot inside its ring: no difference")


def _changes(axis: Axes, cells: Sequence[Cell], modes: Sequence[str]) -> None:
    for row, cell in enumerate(cells):
        for place, name in enumerate(modes):
            if name in cell.modes:
                y = row + (place - (len(modes) - 1) / 2) * 0.24
                axis.plot(cell.modes[name].change.mean, y, color=colour(cell.norm), **LOOKS[name])
    axis.set_xscale("symlog", linthresh=SMALLEST, linscale=0.5)
    _ticks(axis.xaxis, [mode.change.mean for cell in cells for mode in cell.modes.values()])
    axis.set_title("Mean |change of log p| when all the tokens\nafter a position are replaced")
    axis.set_xlabel("nats")


def _by_distance(axis: Axes, cells: Sequence[Cell]) -> None:
    """What is not zero: causal models in training, where the norm alone can leak, and the others in evaluation."""
    heights, last = [0.0], 2
    for cell in cells:
        for name, mode in cell.modes.items():
            if (name == "evaluation") == cell.causal or mode.change.identical:
                continue
            distances, means = zip(*mode.distances, strict=True)
            look = LOOKS[name] | {"markersize": 4, "markevery": max(1, len(distances) // 10)}
            axis.plot(distances, means, color=colour(cell.norm), linestyle=LINES[name], linewidth=1.3, **look)
            heights.extend(means)
            last = max(last, *distances)
    axis.set_yscale("symlog", linthresh=SMALLEST, linscale=0.5)
    _ticks(axis.yaxis, heights)
    axis.set_xlim(1 - 0.02 * last, last * 1.02)
    axis.set_title("The same by distance (causal: training, where\nnot exactly 0; all others: evaluation)")
    axis.set_xlabel("tokens from the position to the nearest replaced one")
    axis.set_ylabel("nats")
    if len(heights) == 1:
        axis.text(0.5, 0.5, "exactly 0 everywhere", transform=axis.transAxes, ha="center")


def _ticks(axis: Axis, values: Sequence[float]) -> None:
    """Ticks at 0 and at every second power of ten up to the greatest value."""
    powers = [10.0**power for power in range(-6, 4, 2)]
    shown = [0.0, *powers[: sum(power < max(values, default=0) for power in powers) + 1]]
    axis.set_major_locator(FixedLocator(shown))
    axis.set_minor_locator(FixedLocator([]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}" if value else "exactly 0"))
