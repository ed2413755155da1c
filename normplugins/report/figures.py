"""Draws the loss curves of an experiment, each norm always in its own colour."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normplugins.report.cells import Cell, group
from normplugins.report.readings import CODE, MASKED, PAPER, PRE_NORM_TRANSFORMER, TRANSFORMER
from normplugins.report.records import Curve, norm_rank

# The colours of Okabe and Ito and of Tol's muted set, which colour-blind readers tell apart, in the norms' order.
COLOURS = (
    *("#000000", "#E69F00", "#D55E00", "#56B4E9", "#0072B2", "#44AA99", "#999933", "#332288"),
    *("#CC6677", "#009E73", "#CC79A7", "#882255", "#117733", "#DDCC77", "#AA4499", "#661100", "#6699CC", "#999999"),
)
MARKERS = "osDv^HphXdP<>*8"
MODEL_STYLES = {CODE: "-", MASKED: "--", PAPER: "-.", TRANSFORMER: ":", PRE_NORM_TRANSFORMER: (0, (1, 3))}
OTHER_STYLE = (0, (5, 1, 1, 1, 1, 1))  # for language models with other settings
# A file shows the same whatever the user's own matplotlib settings are.
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.titlesize": 11,
}


def place(norm: str) -> int:
    """Return the norm's place in the registry's order, or a checksum of its name if it is not installed."""
    rank, name = norm_rank(norm)
    return rank if norm_rank("")[0] > rank else zlib.crc32(name.encode())


def colour(norm: str) -> str:
    """Return the norm's colour, which is the same in every figure."""
    return COLOURS[place(norm) % len(COLOURS)]


def save(figure: Figure, path: Path) -> None:
    """Write a PNG without matplotlib's version, so that an upgrade alone does not change the file."""
    figure.savefig(path, format="png", metadata={"Software": None})


def curves(results: pd.DataFrame, path: Path) -> None:
    """Write a PNG with the training and validation loss of the runs of one experiment.

    The same runs give the same bytes with the same version of matplotlib. Runs shorter than a tenth of the longest one
    would be a dot at the edge, so the figure only names them.
    """
    cells = [cell for cell in group(results) if len(cell.runs)]
    longest = max(cell.runs["updates"].max() for cell in cells)
    shown = [cell for cell in cells if cell.runs["updates"].max() >= longest / 10]
    short = [cell.label for cell in cells if cell not in shown]
    styles = _styles(shown)
    labels = [cell.label + (f" ({len(cell.runs)} seeds)" if len(cell.runs) > 1 else "") for cell in shown]
    columns = max(1, min(7, 110 // (max(map(len, labels)) + 8)))
    height = 5 + 0.2 * max(0, -(-len(labels) // columns) - 2)  # inches; a long legend must not squeeze the curves
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(10, height), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 2)
        lines = []
        for cell, style in zip(shown, styles, strict=True):
            norm = cell.first["norm"]
            look: dict[str, Any] = {"color": colour(norm), "linestyle": style, "linewidth": 1.4}
            for _, run in cell.runs.iterrows():
                axes[0].plot(*_points(run["train_curve"]), **look)
                every = max(1, len(run["valid_curve"]) // 12)
                marker = {"marker": MARKERS[place(norm) % len(MARKERS)], "markevery": every, "markersize": 5}
                (line,) = axes[1].plot(*_points(run["valid_curve"]), **look, **marker)
            lines.append(line)
        smoothed = " (label-smoothed)" if (results["label_smoothing"] > 0).any() else ""
        for axis, name, column in zip(axes, ("training", "validation"), ("train_curve", "valid_curve"), strict=True):
            axis.set_title(f"{name} loss{smoothed}")
            axis.set_xlabel("updates")
            axis.set_ylabel("loss (bits per token)")
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.xaxis.set_major_formatter("{x:,.0f}")
            points = np.hstack([_points(curve) for cell in shown for curve in cell.runs[column]])
            losses = points[1, points[0] >= points[0].max(initial=0) / 10]
            if losses.size and losses.min() < losses.max():  # the steep start would flatten the rest
                margin = 0.05 * (losses.max() - losses.min())
                axis.set_ylim(losses.min() - margin, losses.max() + margin)
        figure.suptitle("\n".join([*_title(cells), *([f"too short to draw: {'; '.join(short)}"] if short else [])]))
        figure.legend(lines, labels, loc="outside lower center", ncols=columns)
        save(figure, path)


def _title(cells: Sequence[Cell]) -> list[str]:
    runs = pd.concat([cell.runs for cell in cells])
    first = runs.iloc[0]
    sizes = dict.fromkeys(
        size + (f" ({note})" if note else "") for size, note in zip(runs["train_size"], runs["note"], strict=True)
    )
    lines = [": ".join(filter(None, [first["experiment"], "; ".join(filter(None, sizes))]))]
    if first["budget"]:
        low, high = f"{runs['updates'].min():,.0f}", f"{runs['updates'].max():,.0f}"
        lines.append(f"shortened to {low if low == high else f'{low} to {high}'} updates (budget={first['budget']})")
    lines.append("; ".join(dict.fromkeys(runs["hardware"])))
    if any(cell.model and cell.model.sees_by for cell in cells):
        lines.append('"sees the future": the model reads the tokens it has to predict; not a language model\'s loss')
    return lines


def _styles(cells: Sequence[Cell]) -> list[Any]:
    """Return the line style of each cell: one for each language model, and one for each combination of settings."""
    settings = sorted({cell.first["settings"] for cell in cells if cell.first["settings"] and not cell.model})
    styles: dict[str, Any] = {"": "-", **dict(zip(settings, cycle(("--", ":", "-.")), strict=False))}

    def style(cell: Cell) -> Any:
        if cell.model is None:
            return styles[cell.first["settings"]]
        return OTHER_STYLE if cell.first["settings"] else MODEL_STYLES.get(cell.model, "-")

    return [style(cell) for cell in cells]


def _points(curve: Curve) -> np.ndarray:
    """Return the updates and the losses of a curve, shape (2, points)."""
    return np.reshape(curve, (-1, 2)).T
