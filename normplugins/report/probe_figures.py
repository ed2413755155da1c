"""Draws what the statistics probe measured along training: batch statistics (the paper's Figures 2 and 3) and nu.

``table`` is what :func:`normplugins.report.probe_table.probe_table` returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from normplugins.report import style
from normplugins.report.probe_table import FIRST, along_training

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
EVERY_NORM: Mapping[str, Mapping[str, Sequence[str]]] = {
    "fluctuation-layers": {
        "paper's measure": ("variance_distance", "quadratic_mean_distance"),
        "relative": ("deviation_tid", "psi_tid"),
    },
    "backward-fluctuation-layers": {"paper's measure": ("grad_product",), "relative": ("grad_product_relative",)},
}
"""The measures of the two figures of all norms, by the name of the figure."""
NORMS = ("bn", "bn_released", "pnv", "pn", "pn_alg2")
SITES = {"self_attention": "self-attention", "feed_forward": "feed-forward"}
FINAL = "last norm"
PN_CELLS = {
    "pn": "with group scaling",
    "pn,norm.group_scaling=false": "without group scaling",
    "pn_alg2,norm.group_scaling=true": "with group scaling",
    "pn_alg2": "without group scaling",
}
PN_QUANTITIES = {
    "nu": "running product\n$‖ν‖\\,/\\,d$",
    "nu_distance": "batch against it\n$‖Λ_B-ν‖\\,/\\,d$",
    "grad_output": "gradient after\n$‖∂L/∂y‖$",
    "grad_input": "gradient before\n$‖∂L/∂x‖$",
}
TRANSFORMER, RESNET = "transformer, Multi30k", "ResNet20, CIFAR-10"
Shown = tuple[Figure, pd.DataFrame]
"""A figure, and the rows of the published runs that it shows."""


class Panel(NamedTuple):
    """Rows of the table of the probe, whose column ``line`` names the lines, and the texts beside them."""

    rows: pd.DataFrame
    title: str = ""
    label: str = ""


def first_norm(table: pd.DataFrame, vision: pd.DataFrame, name: str) -> Shown | None:
    """Draw the first norm of the runs with ``bn``, and beside it that of a ResNet20; None if there is no such run.

    Args:
        table: the numbers of the transformers.
        vision: what :func:`normplugins.report.probe_table.vision_table` returns; it may be empty.
        name: a key of ``FIRST_NORM``.
    """
    texts = table[(table["cell"] == "bn") & (table["layer"] == FIRST)]
    both = pd.concat([texts.assign(line=TRANSFORMER), vision.assign(line=RESNET)])
    both = along_training(both, FIRST_NORM[name])
    panels = [Panel(both[both["quantity"] == quantity], text) for quantity, text in FIRST_NORM[name].items()]
    looks = {TRANSFORMER: (style.colour("bn"), "-"), RESNET: ("#000000", style.DASHES[1])}
    return _draw([panels[:2], panels[2:]], looks, 4.7, both[both["line"] == TRANSFORMER])


def every_norm(table: pd.DataFrame, name: str) -> Shown | None:
    """Draw each encoder norm of the models with BatchNorm, PN-V and PN; None if there is no such run.

    ``name`` is a key of ``EVERY_NORM``.
    """
    measures = EVERY_NORM[name]
    shown = table[table["cell"].isin(NORMS) & table["layer"].str.startswith("encoder.")]
    shown = along_training(shown, [each for quantities in measures.values() for each in quantities])
    shown = shown.assign(line=shown["cell"])
    places = {_place(str(layer)): rows for layer, rows in shown.groupby("layer")}
    columns = sorted({column for _, column in places}, key=lambda name: (name == FINAL, name))

    def panel(measure: str, site: str, column: str) -> Panel | None:
        if (site, column) not in places:
            return None
        rows = places[site, column]
        head = column if site == SITES["self_attention"] or column == FINAL else ""
        return Panel(rows[rows["quantity"].isin(measures[measure])], head, f"{measure},\n{site}")

    grid = [[panel(measure, site, column) for column in columns] for measure in measures for site in SITES.values()]
    scaled = {*table.loc[table["quantity"] == "group_scale_mean", "cell"]}
    looks = {norm: (style.colour(norm), style.DASHES[norm in scaled]) for norm in NORMS}
    return _draw(grid, looks, 5.8, shown, "row")


def pn_backward(table: pd.DataFrame) -> Shown | None:
    """Draw nu and the gradients at the norms of PN with and without group scaling; None if there is no such run."""
    shown = table[table["cell"].isin([*PN_CELLS]) & table["layer"].str.startswith("encoder.")]
    shown = along_training(shown, PN_QUANTITIES, begin=1)
    shown = shown.assign(line=shown["cell"].map(PN_CELLS), norm=shown["cell"].str.split(",").str[0])

    def panel(norm: str, quantity: str) -> Panel:
        rows = shown[(shown["norm"] == norm) & (shown["quantity"] == quantity)]
        return Panel(rows, norm if quantity == "nu" else "", PN_QUANTITIES[quantity])

    grid = [[panel(norm, quantity) for norm in ("pn", "pn_alg2")] for quantity in PN_QUANTITIES]
    looks = {"with group scaling": ("#0072B2", "-"), "without group scaling": ("#D55E00", style.DASHES[1])}
    return _draw(grid, looks, 6.6, shown, "row")


def _draw(
    grid: Sequence[Sequence[Panel | None]],
    looks: Mapping[str, tuple[str, Any]],
    height: float,
    shown: pd.DataFrame,
    sharey: Any = False,
) -> Shown | None:
    """Draw panels: a line is a median over runs and norms, and a band reaches from the lowest to the highest value.

    Args:
        grid: the panels by row and column.
        looks: the colour and the dashes of each line.
        height: the figure's height in inches.
        shown: the rows of the published runs; without any, there is no figure.
        sharey: ``"row"`` gives the panels of a row one axis.
    """
    if shown.empty:
        return None
    drawn = {name for row in grid for panel in row if panel is not None for name in panel.rows["line"]}
    with style.drawing():
        figure = style.new_figure(height)
        axes = figure.subplots(len(grid), len(grid[0]), sharex=True, sharey=sharey, squeeze=False)
        for axis, panel in zip(axes.flat, (panel for row in grid for panel in row), strict=True):
            axis.set_visible(panel is not None)
            if panel is None:
                continue
            for name, rows in panel.rows.groupby("line", sort=False):
                colour, dashes = looks[str(name)]
                band = rows.groupby("update")["value"].agg(["min", "median", "max"])
                if (band["min"] < band["max"]).any():
                    axis.fill_between(band.index, band["min"], band["max"], color=colour, alpha=0.25, linewidth=0.6)
                axis.plot(band.index, band["median"], color=colour, linestyle=dashes)
            style.log_axes(axis)
            place = axis.get_subplotspec()
            axis.set_title(panel.title)
            axis.set_ylabel(panel.label if place.is_first_col() else "")
            axis.set_xlabel("updates, log" if place.is_last_row() else "")
        handles = {name: {"color": colour, "linestyle": dashes}
                   for name, (colour, dashes) in looks.items() if name in drawn}  # fmt: skip
        style.legend(figure, handles, 5)
    return figure, shown


def _place(layer: str) -> tuple[str, str]:
    """Return the row and the column of the panel of an encoder's norm."""
    _, *parts = layer.split(".")
    if parts[0] == "layers":
        return SITES[parts[2]], f"layer {int(parts[1]) + 1}"
    return SITES["feed_forward"], FINAL
