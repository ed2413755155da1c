"""Draws what the statistics probe measured: batch statistics (the paper's Figures 2 and 3), nu, the gap in loss.

``table`` is what :func:`normplugins.report.probe_table.probe_table` returns.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normplugins.report import style
from normplugins.report.contrasts import CELLS
from normplugins.report.probe_table import FIRST, WARMUP, along_training, loss_gaps

FIRST_NORM: Mapping[str, Mapping[str, str]] = {
    "fluctuation": {
        "mean_distance": "means, the paper's measure\n$‖μ_B-μ‖\\,/\\,d$",
        "mean_tid": "means, relative\n$‖μ_B-μ‖\\,/\\,‖σ‖$",
        "variance_distance": "variances, the paper's measure\n$‖σ^2_B-σ^2‖\\,/\\,d$",
        "deviation_tid": "deviations, relative\n$‖σ_B-σ‖\\,/\\,‖σ‖$",
    },
    "backward-fluctuation": {
        "grad_mean": "of means, the paper's measure\n$‖g_μ‖\\,/\\,d$",
        "grad_mean_relative": "of means, relative\n$‖g_μ‖\\,/\\,\\mathrm{rms}\\,‖g‖$",
        "grad_product": "of variances, the paper's measure\n$‖g_{σ^2}‖\\,/\\,d$",
        "grad_product_relative": "of variances, relative\n$‖g_{σ^2}‖\\,/\\,\\mathrm{rms}\\,‖g‖$",
    },
}
"""The panels of the two figures of the first norm, by the name of the figure."""
EVERY_NORM = {
    "fluctuation-layers": ("variance_distance", "quadratic_mean_distance"),
    "fluctuation-layers-relative": ("deviation_tid", "psi_tid"),
    "backward-fluctuation-layers": ("grad_product",),
    "backward-fluctuation-layers-relative": ("grad_product_relative",),
}
"""The quantities of the figures of all norms, by the name of the figure."""
NORMS = {"bn": "-", "bn_released": style.DASHES[1], "pnv": style.DASHES[2], "pn": "-", "pn_alg2": style.DASHES[3]}
"""The norms of these figures with their dashes, which distinguish lines that are equally bright in gray print."""
SITES = {"self_attention": "self-attention", "feed_forward": "feed-forward"}
PN_CELLS = {
    "pn": "with group scaling",
    "pn,norm.group_scaling=false": "without group scaling",
    "pn_alg2,norm.group_scaling=true": "with group scaling",
    "pn_alg2": "without group scaling",
}
PN_QUANTITIES = {
    "nu": "running ν\n$‖ν‖\\,/\\,d$",
    "nu_distance": "batch minus ν\n$‖Λ_B-ν‖\\,/\\,d$",
    "grad_output": "at the output\n$‖∂L/∂y‖$",
    "grad_input": "at the input\n$‖∂L/∂x‖$",
}
DISCREPANCY = {
    "of means\n$‖μ_B-μ‖\\,/\\,‖σ‖$": ("mean_tid",),
    "of deviations, or of $ψ$\n$‖σ_B-σ‖\\,/\\,‖σ‖$": ("deviation_tid", "psi_tid"),
}
"""The panels of the figure of the discrepancy between training and inference, with their quantities."""
TRANSFORMER, RESNET = "transformer, Multi30k", "ResNet20, CIFAR-10"
Shown = tuple[Figure, pd.DataFrame]
"""A figure, and the rows of the published runs that it shows."""


def first_norm(table: pd.DataFrame, vision: pd.DataFrame, name: str) -> Shown | None:
    """Draw statistics of the first norm of runs with ``bn`` and of a ResNet20; None if there is no run with ``bn``.

    ``vision`` is what :func:`normplugins.report.probe_table.vision_table` returns, ``name`` a key of ``FIRST_NORM``.
    """
    texts = table[(table["cell"] == "bn") & (table["layer"] == FIRST)]
    both = pd.concat([texts.assign(line=TRANSFORMER), vision.assign(line=RESNET)])
    both = along_training(both, FIRST_NORM[name])
    number = both["quantity"].map([*FIRST_NORM[name]].index)
    both = both.assign(row=number // 2, column=number % 2, title=both["quantity"].map(FIRST_NORM[name]), label="")
    shown = both[both["line"] == TRANSFORMER]
    looks = {TRANSFORMER: (style.color("bn"), "-"), RESNET: ("#000000", style.DASHES[1])}
    return None if shown.empty else (_draw(both, looks, 5.2, share=False), shown)


def every_norm(table: pd.DataFrame, name: str) -> Shown | None:
    """Draw each encoder norm of the models with BatchNorm, PN-V and PN; None if there is no such run.

    ``name`` is a key of ``EVERY_NORM``.
    """
    # records of version 0.2.0 hold the products of bn_released multiplied by positions/tokens
    norms = {*NORMS} - ({"bn_released"} if name.startswith("backward") else set())
    shown = table[table["cell"].isin(norms) & table["layer"].str.startswith("encoder.")]
    shown = _of_common_seeds(along_training(shown, EVERY_NORM[name]))
    if shown.empty:
        return None
    place = shown["layer"].str.extract(r"layers\.(?P<layer>\d+)\.(?P<site>\w+)")
    last, site = place["layer"].isna(), place["site"].fillna("self_attention")  # the last norm's column
    layer = place["layer"].astype(float)
    shown = shown.assign(
        row=layer.fillna(layer.max() + 1).astype(int),
        column=site.map([*SITES].index),
        title=site.map(SITES).where(layer == 0, ""),
        label=("layer " + (layer + 1).map("{:.0f}".format)).mask(last, "last norm"),
        line=shown["cell"],
    )
    looks = {norm: (style.color(norm), dashes) for norm, dashes in NORMS.items()}
    return _draw(shown, looks, 6.4), shown


def pn_backward(table: pd.DataFrame) -> Shown | None:
    """Draw nu and the gradients at the norms of PN with and without group scaling; None if there is no such run."""
    shown = table[table["cell"].isin([*PN_CELLS]) & table["layer"].str.startswith("encoder.")]
    shown = _of_common_seeds(along_training(shown, PN_QUANTITIES, begin=1))
    norm = shown["cell"].str.split(",").str[0]
    shown = shown.assign(
        row=shown["quantity"].map([*PN_QUANTITIES].index),
        column=norm.map(["pn", "pn_alg2"].index),
        title=norm.where(shown["quantity"] == "nu", ""),
        label=shown["quantity"].map(PN_QUANTITIES),
        line=shown["cell"].map(PN_CELLS),
    )
    looks = {"with group scaling": ("#0072B2", "-"), "without group scaling": ("#D55E00", style.DASHES[1])}
    return None if shown.empty else (_draw(shown, looks, 6.9), shown)


def discrepancy(table: pd.DataFrame) -> Shown | None:
    """Draw the discrepancy between the statistics of training and inference against the gap in validation loss.

    A point is a norm of a run: its mean discrepancy from ``WARMUP`` on, and the gap in loss of the whole run. PN has
    no gap, because it uses running statistics in training mode too; its runs have a panel of their own. Returns None if
    no run has these numbers.
    """
    table = table[table["cell"].isin([*CELLS])]
    gaps = loss_gaps(table)
    shown = along_training(table, [name for names in DISCREPANCY.values() for name in names], begin=WARMUP)
    shown = shown[[key in gaps for key in zip(shown["cell"], shown["seed"], strict=True)]]
    if shown.empty:
        return None
    of_pn = shown["cell"].isin([*PN_CELLS])
    shown = pd.concat([shown[~of_pn], _of_common_seeds(shown[of_pn])])
    scaled = {*table.loc[table["quantity"] == "group_scale_mean", "cell"]}
    rows = [cell for cell in PN_CELLS if (shown["cell"] == cell).any()]  # with group scaling first
    key = "norm.group_scaling="
    labels = [cell.replace(f"{key}true", " scaling").replace(f"{key}false", " no scaling") for cell in rows]
    with style.drawing():
        figure = style.new_figure(4.8)
        axes = figure.subplot_mosaic([["means", "deviations"], ["strip", "strip"]], height_ratios=[3, 1])
        means, deviations, strip = axes["means"], axes["deviations"], axes["strip"]
        deviations.sharey(means)
        for axis, (label, quantities) in zip((means, deviations), DISCREPANCY.items(), strict=True):
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


def _of_common_seeds(shown: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the seeds that all cells have, if there are any: a range over more seeds is wider."""
    seeds = [{*each} for _, each in shown.groupby("cell")["seed"]]
    common = set.intersection(*seeds) if seeds else set()
    return shown[shown["seed"].isin(common)] if common else shown


def _draw(shown: pd.DataFrame, looks: Mapping[str, tuple[str, Any]], height: float, share: bool = True) -> Figure:
    """Draw panels: a line is a median over runs and norms, and a band reaches from the lowest to the highest value.

    Each of the rows ``shown`` has its ``line``, the ``row`` and the ``column`` of its panel, the panel's ``title``, and
    the ``label`` of the panels of that row. ``looks`` has the color and the dashes of each line, ``height`` is in
    inches, and with ``share`` the panels of a row share one axis.
    """
    with style.drawing():
        figure = style.new_figure(height)
        size = (shown["row"].max() + 1, shown["column"].max() + 1)
        axes = figure.subplots(*size, sharex=True, sharey="row" if share else False, squeeze=False)
        for each in axes.flat:
            each.set_visible(False)
        bottom = shown.groupby("column")["row"].max()
        numbers: Any  # (row, column); pandas types it as any scalar
        for numbers, panel in shown.groupby(["row", "column"]):
            axis: Axes = axes[numbers]
            axis.set_visible(True)
            for name, rows in panel.groupby("line", sort=False):
                color, dashes = looks[str(name)]
                band = rows.groupby("update")["value"].agg(["min", "median", "max"])
                if (band["min"] < band["max"]).any():
                    axis.fill_between(band.index, band["min"], band["max"], color=color, alpha=0.25, linewidth=0.6)
                axis.plot(band.index, band["median"], color=color, linestyle=dashes)
            style.log_axes(axis)
            axis.set_title(panel["title"].iloc[0])
            axis.set_ylabel(panel["label"].iloc[0] if numbers[1] == 0 else "")
            axis.set_xlabel("updates, log" if numbers[0] == bottom[numbers[1]] else "")
            axis.tick_params(labelbottom=numbers[0] == bottom[numbers[1]])
        drawn = {name: {"color": color, "linestyle": dashes}
                 for name, (color, dashes) in looks.items() if (shown["line"] == name).any()}  # fmt: skip
        style.legend(figure, drawn, 5)
    return figure
