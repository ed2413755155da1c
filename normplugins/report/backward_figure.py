"""Draws nu and the gradients at the norms of PN along training, with and without group scaling."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from normplugins.report import style
from normplugins.report.probe_table import along_training, runs_shown

CELLS: Mapping[str, Mapping[str, str]] = {
    "pn": {"with": "pn", "without": "pn,norm.group_scaling=false"},
    "pn_alg2": {"with": "pn_alg2,norm.group_scaling=true", "without": "pn_alg2"},
}
QUANTITIES = {
    "nu": "running product\n$\\Vert\\nu\\Vert\\,/\\,d$",
    "nu_distance": "batch against it\n$\\Vert\\Lambda_B-\\nu\\Vert\\,/\\,d$",
    "grad_output": "gradient after\n$\\Vert\\partial L/\\partial y\\Vert$",
    "grad_input": "gradient before\n$\\Vert\\partial L/\\partial x\\Vert$",
}
LOOKS = {"with": ("#0072B2", "-"), "without": ("#D55E00", style.DASHES[1])}


def backward(table: pd.DataFrame) -> tuple[Figure, str] | None:
    """Return the figure and the runs that it shows; None if no run has these numbers.

    Args:
        table: what :func:`normplugins.report.probe_table.probe_table` returns.
    """
    cells = [cell for pair in CELLS.values() for cell in pair.values()]
    shown = table[table["cell"].isin(cells) & table["layer"].str.startswith("encoder.")]
    shown = along_training(shown, QUANTITIES, begin=1)
    if shown.empty:
        return None
    with style.drawing():
        figure = style.new_figure(6.6)
        grid = figure.subplots(len(QUANTITIES), len(CELLS), sharex=True, sharey="row")
        style.heading(figure, "PN's backward pass with and without group scaling")
        for column, (norm, pair) in enumerate(CELLS.items()):
            grid[0, column].set_title(norm)
            grid[-1, column].set_xlabel("updates, log")
            for axis, (quantity, label) in zip(grid[:, column], QUANTITIES.items(), strict=True):
                for scaling, cell in pair.items():
                    colour, dashes = LOOKS[scaling]
                    part = shown[(shown["cell"] == cell) & (shown["quantity"] == quantity)]
                    band = part.groupby("update")["value"].agg(["min", "median", "max"])
                    axis.fill_between(band.index, band["min"], band["max"], color=colour, alpha=0.25, linewidth=0.6)
                    axis.plot(band.index, band["median"], color=colour, linestyle=dashes)
                style.log_axes(axis)
                axis.set_ylabel("" if column else label)
        handles = [
            Line2D([], [], color=colour, linestyle=dashes, label=f"{scaling} group scaling")
            for scaling, (colour, dashes) in LOOKS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return figure, runs_shown(shown)
