"""Draws results/figures/speed.png: norms beside LayerNorm, and how each cost grows with the work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from normplugins.bench.results import fields_of
from normplugins.bench.tables import Row, named, series
from normplugins.norms import known_norms
from normplugins.report.figures import STYLE, colour

BASELINES: dict[str, dict[str, Any]] = {
    "torch LayerNorm": {"color": "#000000", "linestyle": "--", "marker": "o"},
    "released PN": {"color": "#D55E00", "linestyle": "--", "marker": "D"},
    "stock ln": {"color": "#D55E00", "linestyle": "--", "marker": "o"},
}
PANELS = {  # what grows, by benchmark; the title, and what the times are of
    ("norm", "tokens"): ("a norm: tokens in a batch", "forward and backward, ms"),
    ("norm", "channels"): ("a norm: channels", "forward and backward, ms"),
    ("step", "tokens"): ("training: tokens in a batch", "an update, ms"),
    ("step", "length"): ("training: tokens in a sentence", "an update, ms"),
    ("step", "types"): ("training: vocabulary", "an update, ms"),
    ("decode", "beam"): ("translating: beam", "all sentences, ms"),
    ("decode", "length"): ("translating: tokens in a sentence", "all sentences, ms"),
    ("prepare", "pairs"): ("preparing: pairs of sentences", "all stages, ms"),
}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the PNG; the same rows of one machine give the same bytes with the same version of matplotlib."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(13, 11), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        first, *others = figure.subplots(3, 3).flat
        _beside_layernorm(first, [row for row in rows if row["benchmark"] == "norm" and row["direction"] == "both"])
        for axis, ((benchmark, field), (title, what)) in zip(others, PANELS.items(), strict=True):
            axis.set_title(title)
            axis.set_ylabel(what)
            _growing(axis, field, [row for row in rows if row["benchmark"] == benchmark])
        figure.suptitle(rows[0]["hardware"])
        figure.savefig(path, format="png", metadata={"Software": None})


def _beside_layernorm(axis: Axes, rows: Sequence[Row]) -> None:
    """Each norm's time over LayerNorm's, by the case that has the most norms."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    if not cases:
        _nothing(axis)
        return
    case = max(cases, key=lambda case: sum(row["case"] == case for row in rows))
    shown = sorted((row for row in rows if row["case"] == case), key=lambda row: -float(row["ratio"]))
    for place, row in enumerate(shown):
        name = row["provider"].split(" ")[0]
        hollow = {"markerfacecolor": "white"} if row["provider"].endswith("plain") else {}
        look = BASELINES.get(row["provider"], {"color": colour(name)})
        axis.plot(float(row["ratio"]), place, marker="o", markersize=6, color=look["color"], **hollow)
    axis.axvline(1, color="#000000", linewidth=0.8)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_yticks(range(len(shown)), [row["provider"] for row in shown], fontsize=8)
    fields = fields_of(case)
    axis.set_title(f"{fields['tokens']} × {fields['channels']} {fields['dtype']}, padding: {fields['padding']}")
    axis.set_xlabel("times torch LayerNorm, forward and backward")


def _growing(axis: Axes, field: str, rows: Sequence[Row]) -> None:
    groups = [group for (name, _), group in series(rows).items() if name == field]
    if not groups:
        _nothing(axis)
        return
    shown = max(groups, key=lambda group: max(row["date"] for row in group))
    lines: dict[str, dict[int, float]] = {}
    for row in shown:
        lines.setdefault(named(row), {})[int(fields_of(row["case"])[field])] = float(row["median_ms"])
    for name, points in lines.items():
        if len(points) < 3:  # measured in another case that a series runs through
            continue
        provider, _, variant = name.partition(" ")
        own: dict[str, Any] = {"marker": "^", "linestyle": ":" if variant in ("plain", "compiled") else "-"}
        if provider in known_norms():
            own["color"] = colour(provider)
        sizes = sorted(points)
        look = BASELINES.get(name, own) | {"markersize": 4, "linewidth": 1.3}
        axis.plot(sizes, [points[size] for size in sizes], label=name, **look)
    sizes = sorted({size for points in lines.values() for size in points})
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(FixedLocator(sizes))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.legend(fontsize=7)


def _nothing(axis: Axes) -> None:
    axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center")
    axis.xaxis.set_major_locator(NullLocator())
    axis.yaxis.set_major_locator(NullLocator())
