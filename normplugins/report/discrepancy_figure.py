"""Draws the discrepancy of statistics between training and inference against the gap in validation loss."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from normplugins.report import style
from normplugins.report.contrasts import CELLS
from normplugins.report.probe_figures import PN_CELLS, of_common_seeds
from normplugins.report.probe_table import WARMUP, along_training, loss_gaps

PANELS = {
    "of means\n$‖μ_B-μ‖\\,/\\,‖σ‖$": ("mean_tid",),
    "of deviations, or of $ψ$\n$‖σ_B-σ‖\\,/\\,‖σ‖$": ("deviation_tid", "psi_tid"),
}

SCALING = ",norm.group_scaling="


def discrepancy(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame] | None:
    """Return the figure and the rows that it shows; None if no run has these numbers.

    A point is a norm of a run: its mean discrepancy from ``WARMUP`` on, and the gap in loss of the whole run. PN has
    no gap, because it uses running statistics in training mode too; its runs have a panel of their own. ``table`` is
    what :func:`normplugins.report.probe_table.probe_table` returns.
    """
    table = table[table["cell"].isin([*CELLS])]
    gaps = loss_gaps(table)
    shown = along_training(table, [name for names in PANELS.values() for name in names], begin=WARMUP)
    shown = shown[[key in gaps for key in zip(shown["cell"], shown["seed"], strict=True)]]
    if shown.empty:
        return None
    of_pn = shown["cell"].isin([*PN_CELLS])
    shown = pd.concat([shown[~of_pn], of_common_seeds(shown[of_pn])])
    scaled = {*table.loc[table["quantity"] == "group_scale_mean", "cell"]}
    rows = [cell for cell in PN_CELLS if (shown["cell"] == cell).any()]  # with group scaling first
    labels = [cell.replace(f"{SCALING}true", ", scaling").replace(f"{SCALING}false", ", no scaling") for cell in rows]
    with style.drawing():
        figure = style.new_figure(4.2)
        axes = figure.subplot_mosaic([["means", "deviations"], ["strip", "strip"]], height_ratios=[3, 1])
        means, deviations, strip = axes["means"], axes["deviations"], axes["strip"]
        deviations.sharey(means)
        for axis, (label, quantities) in zip((means, deviations), PANELS.items(), strict=True):
            for (cell, seed), run in shown[shown["quantity"].isin(quantities)].groupby(["cell", "seed"], sort=False):
                norm_means = run.groupby("layer")["value"].mean()
                color = style.color(str(cell).split(",")[0])
                look: dict[str, Any] = {"color": color, "mfc": color if cell in scaled else "none"}
                place, height = axis, gaps[cell, seed]
                if cell in rows:  # each run has its own height within the row of its cell
                    seeds = sorted({*shown.loc[shown["cell"] == cell, "seed"]})
                    place, height = strip, rows.index(cell) + 0.5 * (seeds.index(seed) + 1) / (len(seeds) + 1) - 0.25
                place.plot(norm_means, [height] * len(norm_means), "o-", markersize=4.5, linewidth=0.6, **look)
            axis.axhline(0, color=style.GREY, linewidth=0.8, zorder=0)
            axis.set_title(label)
        for axis in axes.values():
            axis.set_xscale("log")
            style.few_log_labels(axis.xaxis)
            axis.set_xlabel("discrepancy, log")
        deviations.tick_params(labelleft=False)
        means.set_ylabel("validation loss, minus that in\ntraining mode (bits), linear")
        strip.set_title("PN, whose gap is 0: of $ψ$")
        strip.set_yticks(range(len(rows)), labels)
        strip.set_ylim(max(1, len(rows)) - 0.5, -0.5)
        norms = dict.fromkeys(cell.split(",")[0] for cell in shown["cell"] if cell not in rows)
        looks: dict[str, dict[str, Any]] = {norm: {"linewidth": 3, "color": style.color(norm)} for norm in norms}
        for name, fill in (("group scaling", "#333333"), ("no group scaling", "none")):
            looks[name] = {"marker": "o", "linestyle": "", "color": "#333333", "mfc": fill}
        style.legend(figure, looks, 5)
    return figure, shown
