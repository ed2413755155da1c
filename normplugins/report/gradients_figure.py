"""Writes results/gradients_by_depth.csv and its figure: gradient norms at initialisation, for each placement."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from normplugins.models.placement import PLACEMENTS
from normplugins.report import style
from normplugins.report.measured import add_measured
from normplugins.report.records import norm_rank

TABLE, FIGURE = "gradients_by_depth.csv", Path("figures") / "gradients_by_depth"
COLUMNS = ["norm", "placement", "layers", "stack", "layer", "gradient", "seeds", "width"]
COLOURS = dict(zip(PLACEMENTS, (style.GREY, "#D55E00", "#0072B2", "#44AA99", "#CC79A7"), strict=True))


def write_gradients(results: Path, rows: Iterable[dict[str, Any]]) -> list[Path]:
    """Add a norm's rows to the table, in the place of its older ones, and draw the figure of all norms.

    Args:
        results: the folder of the results.
        rows: what :func:`normplugins.evaluation.gradients_by_depth.measure_gradients` yields.

    Returns:
        The written files: the table, and the figure as PNG and SVG.

    Raises:
        UserError: the table cannot be read.
        OSError: a file cannot be written.
    """
    every = add_measured(results / TABLE, COLUMNS, ["norm"], rows)
    return [results / TABLE, *style.write(draw(every), results / FIGURE)]


def draw(found: pd.DataFrame) -> Figure:
    """Return a figure with a row of panels for each norm and stack, and a column for each number of layers."""
    panels, depths = list(found.groupby(["norm", "stack"], sort=False)), sorted(found["layers"].unique())
    panels.sort(key=lambda each: (norm_rank(str(each[0][0])), each[0][1] == "decoder"))
    title = "Gradient norms at initialisation, by placement of the norms"
    seeds, widths = (" or ".join(map(str, sorted(found[name].unique()))) for name in ("seeds", "width"))
    notes = [
        "Norm of dL/dW of each layer's second feed-forward weight, log scale. Translation models with the same norm in "
        f"both stacks, {widths} channels, random sentences; initialisations averaged: {seeds}."
    ]
    with style.drawing():
        figure = style.new_figure(1.2 + 1.75 * len(panels))
        axes = figure.subplots(len(panels), len(depths), sharey="row", squeeze=False)
        style.heading(figure, title, notes)
        for row, ((norm, stack), rows) in zip(axes, panels, strict=True):
            for axis, depth in zip(row, depths, strict=True):
                _panel(axis, rows[rows["layers"] == depth])
                axis.set_title(f"{norm}, {stack}, {depth} layers" if axis is row[0] else f"{depth} layers")
            row[0].set_ylabel("gradient norm")
            few = rows["gradient"].max() < 30 * rows["gradient"].min()
            row[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
            row[0].yaxis.set_major_formatter("{x:g}")
            row[0].yaxis.set_minor_formatter(NullFormatter())
        for axis in axes[-1]:
            axis.set_xlabel("layer")
        for row, (_, rows) in zip(axes, panels, strict=True):
            deepest = rows[rows["layers"] == rows["layers"].max()]
            last = deepest[deepest["layer"] == deepest["layer"].max()]
            ends = zip(last["placement"], last["gradient"], strict=True)
            labels = [style.Label(y, name, COLOURS[name]) for name, y in ends]
            style.label_lines(row[depths.index(rows["layers"].max())], labels)
    return figure


def _panel(axis: Axes, rows: pd.DataFrame) -> None:
    for name, line in rows.groupby("placement", sort=False):
        dashes = (0, (3, 1.5)) if name == "peri" else "-"  # it often lies on sandwich
        axis.plot(line["layer"], line["gradient"], "o", linestyle=dashes, markersize=2.5, color=COLOURS[str(name)])
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 3, 6, 10]))
