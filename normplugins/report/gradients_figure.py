"""Gradient norms at initialization for each placement: results/gradients_by_depth.csv, its figure, and its verdict."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normplugins.models.placement import PLACEMENTS
from normplugins.report import style
from normplugins.report.cells import SPREAD_SEEDS
from normplugins.report.contrasts import NOT_RUN, UNDECIDED
from normplugins.report.evidence import FAILS, HOLDS
from normplugins.report.measured import add_measured, numbers_table, read_measured
from normplugins.report.records import norm_rank

TABLE, FIGURE = "gradients_by_depth.csv", Path("figures") / "gradients_by_depth"
COLUMNS = ["norm", "placement", "layers", "stack", "layer", "gradient", "seeds", "width"]
COLORS = dict(zip(PLACEMENTS, (style.GREY, "#D55E00", "#0072B2", "#44AA99", "#CC79A7"), strict=True))


def write_gradients(results: Path, rows: Iterable[dict[str, Any]]) -> list[Path]:
    """Replace a norm's rows in the table and draw the figure of all norms; return the written files.

    ``rows`` are what :func:`normplugins.evaluation.gradients_by_depth.measure_gradients` yields.

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
    seeds, widths = (" or ".join(map(str, sorted(found[name].unique()))) for name in ("seeds", "width"))
    notes = [
        "Norm of dL/dW of each layer's second feed-forward weight, log scale. Translation models with the same norm in "
        f"both stacks, {widths} channels, random sentences; initializations averaged: {seeds}."
    ]
    with style.drawing():
        figure = style.new_figure(1.2 + 1.75 * len(panels))
        axes = figure.subplots(len(panels), len(depths), sharey="row", squeeze=False)
        style.heading(figure, "Gradient norms at initialization, by placement of the norms", notes)
        for row, ((norm, stack), rows) in zip(axes, panels, strict=True):
            for axis, depth in zip(row, depths, strict=True):
                for name, line in rows[rows["layers"] == depth].groupby("placement", sort=False):
                    look: dict[str, Any] = {"color": COLORS[str(name)], "marker": "o", "markersize": 2.5}
                    dashes = (0, (3, 1.5)) if name == "peri" else "-"  # its line often covers the line of sandwich
                    axis.plot(line["layer"], line["gradient"], linestyle=dashes, **look)
                axis.set_title(f"{norm}, {stack}, {depth} layers" if axis is row[0] else f"{depth} layers")
                axis.set_yscale("log")
                axis.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 3, 6, 10]))
            row[0].set_ylabel("gradient norm")
            style.few_log_labels(row[0].yaxis)
        for axis in axes[-1]:
            axis.set_xlabel("layer")
        for row, (_, rows) in zip(axes, panels, strict=True):  # last: labels are placed where there is room
            deepest = rows["layers"].max()
            ends = rows[rows["layers"] == deepest].groupby("placement", sort=False)["gradient"].last()
            labels = [style.Label(y, str(name), COLORS[str(name)]) for name, y in ends.items()]
            style.label_lines(row[depths.index(deepest)], labels)
    return figure


def pre_norm(results: Path, stack: str) -> tuple[str, str]:
    """Judge whether pre-norm has smoother gradients by depth than post-norm in a stack; return verdict and evidence."""
    table = read_measured(results / TABLE, COLUMNS)
    table = table[table["placement"].isin(["pre", "post"]) & (table["stack"] == stack)]
    if table["placement"].nunique() < 2:
        return NOT_RUN, f"{TABLE} does not have both placements."
    groups = table.groupby(["norm", "layers", "placement"])["gradient"]
    spread = (groups.max() / groups.min()).unstack("placement").dropna()
    smoother = int((spread["pre"] < spread["post"]).sum())
    verdict = HOLDS if smoother == len(spread) else FAILS if not smoother else UNDECIDED
    spread.index = pd.Index([f"{norm}, {layers} layers" for norm, layers in spread.index])
    shown = spread[["pre", "post"]].add_suffix("-norm")
    return (UNDECIDED if table["seeds"].min() < SPREAD_SEEDS else verdict), (
        f"For each model, the table compares the layers of the {stack} by the norm of the gradient of their second "
        "feed-forward weight: the largest norm divided by the smallest, at initialization "
        f"(means of {table['seeds'].min()} initializations, {table['width'].min()} channels, random "
        f"sentences). The ratio is smaller with pre-norm in {smoother} of {len(spread)} models.\n\n"
        f"{numbers_table('model', shown, '{:.2f}')}\n\n[Figure]({FIGURE}.png), [{TABLE}]({TABLE})"
    )
