"""How much the statistics of a batch fluctuate, in the forward and in the backward pass: the paper's Figures 2 and 3.

The numbers of the transformer are in the records of Multi30k, those of the ResNet20 in the file that
``benchmarks/vision_statistics.py`` writes.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from normplugins.report import style
from normplugins.report.probe_table import FIRST, along_training, runs_shown

FIRST_NORM: Mapping[str, Mapping[str, str]] = {
    "First BatchNorm: batch statistics against running ones": {
        "mean_distance": "means, the paper's measure\n$\\Vert\\mu_B-\\mu\\Vert\\,/\\,d$",
        "mean_tid": "means, relative\n$\\Vert\\mu_B-\\mu\\Vert\\,/\\,\\Vert\\sigma\\Vert$",
        "variance_distance": "variances, the paper's measure\n$\\Vert\\sigma^2_B-\\sigma^2\\Vert\\,/\\,d$",
        "deviation_tid": "deviations, relative\n$\\Vert\\sigma_B-\\sigma\\Vert\\,/\\,\\Vert\\sigma\\Vert$",
    },
    "First BatchNorm: backward pass through statistics": {
        "grad_mean": "of means, the paper's measure\n$\\Vert g_\\mu\\Vert\\,/\\,d$",
        "grad_mean_relative": "of means, relative\n$\\Vert g_\\mu\\Vert\\,/\\,\\mathrm{rms}\\,\\Vert g\\Vert$",
        "grad_product": "of variances, the paper's measure\n$\\Vert g_{\\sigma^2}\\Vert\\,/\\,d$",
        "grad_product_relative": "of variances, relative\n"
        "$\\Vert g_{\\sigma^2}\\Vert\\,/\\,\\mathrm{rms}\\,\\Vert g\\Vert$",
    },
}
"""The panels of the two figures of the first norm, by the title of the figure."""
EVERY_NORM: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "All encoder norms: batch statistics against running ones": {
        "paper's measure": ("variance_distance", "quadratic_mean_distance"),
        "relative": ("deviation_tid", "psi_tid"),
    },
    "All encoder norms: backward pass through statistics": {
        "paper's measure": ("grad_product",),
        "relative": ("grad_product_relative",),
    },
}
"""The measures of the two figures of all norms, by the title of the figure."""
NORMS = ("bn", "bn_released", "pnv", "pn", "pn_alg2")
VISION_COLOUR = "#000000"
FINAL = "last norm"
SITES = {"self_attention": "self-attention", "feed_forward": "feed-forward"}


def first_norm(table: pd.DataFrame, vision: pd.DataFrame, title: str) -> tuple[Figure, str] | None:
    """Draw the first norm of each run with ``bn`` along training, and beside it that of a ResNet20.

    Args:
        table: what :func:`normplugins.report.probe_table.probe_table` returns.
        vision: what :func:`normplugins.report.probe_table.vision_table` returns; it may be empty.
        title: a key of ``FIRST_NORM``.

    Returns:
        The figure and the runs that it shows, or None if no run has these numbers.
    """
    panels = FIRST_NORM[title]
    texts = along_training(table[(table["cell"] == "bn") & (table["layer"] == FIRST)], panels)
    images = along_training(vision, panels)
    if texts.empty:
        return None
    with style.drawing():
        figure = style.new_figure(4.7)
        axes = figure.subplots(2, 2, sharex=True)
        style.heading(figure, title)
        for axis, (quantity, label) in zip(axes.flat, panels.items(), strict=True):
            for part, colour, dashes in ((texts, style.colour("bn"), "-"), (images, VISION_COLOUR, style.DASHES[1])):
                for _, run in part[part["quantity"] == quantity].groupby("seed"):
                    axis.plot(run["update"], run["value"], color=colour, linestyle=dashes)
            axis.set_title(label)
            style.log_axes(axis)
        for axis in axes[-1]:
            axis.set_xlabel("updates, log")
        handles = [Line2D([], [], color=style.colour("bn"), label="transformer, Multi30k")]
        if len(images):
            handles.append(Line2D([], [], color=VISION_COLOUR, linestyle=style.DASHES[1], label="ResNet20, CIFAR-10"))
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return figure, runs_shown(texts)


def every_norm(table: pd.DataFrame, title: str) -> tuple[Figure, str] | None:
    """Draw each encoder norm of the models with BatchNorm, PN-V and PN along training, in a panel of its own.

    Args:
        table: what :func:`normplugins.report.probe_table.probe_table` returns.
        title: a key of ``EVERY_NORM``.

    Returns:
        The figure and the runs that it shows, or None if no run has these numbers.
    """
    measures = EVERY_NORM[title]
    shown = table[table["cell"].isin(NORMS) & table["layer"].str.startswith("encoder.")]
    shown = along_training(shown, [name for names in measures.values() for name in names])
    if shown.empty:
        return None
    scaled = {*table.loc[table["quantity"] == "group_scale_mean", "cell"]}
    dashes = {cell: style.DASHES[cell in scaled] for cell in NORMS}
    places = {layer: _place(layer) for layer in shown["layer"].unique()}
    columns = sorted({column for _, column in places.values()}, key=lambda name: (name == FINAL, name))
    with style.drawing():
        figure = style.new_figure(2.5 * len(measures) + 0.8)
        grid = figure.subplots(2 * len(measures), len(columns), sharex=True, sharey="row", squeeze=False)
        style.heading(figure, title)
        for axis in grid.flat:
            axis.set_visible(False)
        for number, (measure, quantities) in enumerate(measures.items()):
            for layer, (site, column) in places.items():
                axis = grid[2 * number + [*SITES.values()].index(site), columns.index(column)]
                axis.set_visible(True)
                part = shown[(shown["layer"] == layer) & shown["quantity"].isin(quantities)]
                for cell, runs in part.groupby("cell", sort=False):
                    mean = runs.groupby("update")["value"].mean()
                    axis.plot(
                        mean.index, mean, color=style.colour(str(cell)), linestyle=dashes[str(cell)], linewidth=1.2
                    )
                style.log_axes(axis)
                first = column == columns[0]
                axis.set_ylabel(f"{measure},\n{site}" if first else "")
                axis.set_title(column if site == SITES["self_attention"] or column == FINAL else "")
                axis.tick_params(labelbottom=axis.get_subplotspec().is_last_row(), labelleft=first)
                axis.set_xlabel("updates, log" if axis.get_subplotspec().is_last_row() else "")
        handles = [
            Line2D([], [], color=style.colour(cell), linestyle=dashes[cell], label=cell)
            for cell in NORMS
            if cell in {*shown["cell"]}
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8.5)
    return figure, runs_shown(shown)


def _place(layer: str) -> tuple[str, str]:
    """Return the row and the column of the panel of an encoder's norm."""
    _, *parts = layer.split(".")
    if parts[0] == "layers":
        return SITES[parts[2]], f"layer {int(parts[1]) + 1}"
    return SITES["feed_forward"], FINAL
