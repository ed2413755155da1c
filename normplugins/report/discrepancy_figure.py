"""Draws the discrepancy of statistics between training and inference against the gap in validation loss."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from normplugins.report import style
from normplugins.report.contrasts import CELLS
from normplugins.report.probe_table import SETTLED, along_training, loss_gaps

PANELS = {
    "of means\n$‖μ_B-μ‖\\,/\\,‖σ‖$": ("mean_tid",),
    "of deviations, or of $ψ$\n$‖σ_B-σ‖\\,/\\,‖σ‖$": ("deviation_tid", "psi_tid"),
}
RAISED = {"pn": 4, "pn_alg2": 10}
"""Points by which norms are drawn above their gap: it is 0 for both, and they would cover each other."""


def discrepancy(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame] | None:
    """Return the figure and the rows that it shows; None if no run has these numbers.

    A point is a norm of a run: its mean discrepancy from ``SETTLED`` on, and the gap in loss of the whole run.
    ``table`` is what :func:`normplugins.report.probe_table.probe_table` returns.
    """
    table = table[table["cell"].isin([*CELLS])]
    gaps = loss_gaps(table)
    shown = along_training(table, [name for names in PANELS.values() for name in names], begin=SETTLED)
    shown = shown[[key in gaps for key in zip(shown["cell"], shown["seed"], strict=True)]]
    if shown.empty:
        return None
    scaled = {*table.loc[table["quantity"] == "group_scale_mean", "cell"]}
    norms = list(dict.fromkeys(cell.split(",")[0] for cell in shown["cell"]))
    with style.drawing():
        figure = style.new_figure(3.7)
        axes = figure.subplots(1, len(PANELS), sharey=True)
        for axis, (label, quantities) in zip(axes, PANELS.items(), strict=True):
            part = shown[shown["quantity"].isin(quantities)]
            for (cell, seed), run in part.groupby(["cell", "seed"], sort=False):
                norm = str(cell).split(",")[0]
                color, raised = style.color(norm), RAISED.get(norm, 0) / 72
                norm_means = run.groupby("layer")["value"].mean()
                fill = color if cell in scaled else "none"
                height = [gaps[cell, seed]] * len(norm_means)
                look: dict[str, Any] = {"color": color, "mfc": fill, "markersize": 4.5, "linewidth": 0.6}
                (line,) = axis.plot(norm_means, height, "o-", **look)
                line.set_transform(axis.transData + ScaledTranslation(0, raised, figure.dpi_scale_trans))
            axis.axhline(0, color=style.GREY, linewidth=0.8, zorder=0)
            axis.set_xscale("log")
            style.few_log_labels(axis.xaxis)
            axis.set_title(label)
            axis.set_xlabel("discrepancy, log")
        axes[0].set_ylabel("validation loss, minus that in\ntraining mode (bits), linear")
        looks: dict[str, dict[str, Any]] = {norm: {"linewidth": 3, "color": style.color(norm)} for norm in norms}
        for name, fill in (("group scaling", "#333333"), ("no group scaling", "none")):
            looks[name] = {"marker": "o", "linestyle": "", "color": "#333333", "mfc": fill}
        style.legend(figure, looks, 4)
    return figure, shown
