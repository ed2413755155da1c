"""Draws the loss curves of an experiment, each norm always in its own colour."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normplugins.report.readings import CODE, MASKED, PAPER, PRE_NORM_TRANSFORMER, TRANSFORMER, LanguageModel
from normplugins.report.records import Cell, Curve, Run, group

# Okabe and Ito's colours, which colour-blind readers tell apart; the rest are of Tol's muted set.
COLOURS = {
    "ln": "#000000",
    "bn": "#E69F00",
    "bn_released": "#D55E00",
    "pnv": "#56B4E9",
    "pn": "#0072B2",
    "pn_alg2": "#009E73",
    "rms": "#CC79A7",
    "scale": "#882255",
    "group": "#999933",
    "instance": "#332288",
    "weight": "#117733",
    "affine": "#44AA99",
    "none": "#999999",
}
OTHER_COLOURS = ("#CC6677", "#DDCC77", "#AA4499", "#661100", "#6699CC")  # for norms of your own
MARKERS = {"ln": "o", "bn": "s", "bn_released": "D", "pnv": "v", "pn": "^", "pn_alg2": "P", "none": "X"}
MARKERS |= {"rms": "<", "scale": ">", "group": "p", "instance": "h", "weight": "d", "affine": "H"}
MODEL_STYLES = {CODE: "-", MASKED: "--", PAPER: "-.", TRANSFORMER: ":", PRE_NORM_TRANSFORMER: (0, (1, 3))}
OTHER_STYLE = (0, (5, 1, 1, 1, 1, 1))  # of language models with other settings
# A file shows the same whatever the user's own matplotlib settings are.
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.titlesize": 11,
}


def colour(norm: str) -> str:
    """The norm's colour, the same in every figure and whatever other norms are there."""
    return COLOURS.get(norm) or OTHER_COLOURS[zlib.crc32(norm.encode()) % len(OTHER_COLOURS)]


def curves(runs: Sequence[Run], path: Path) -> None:
    """Write a PNG with the training and validation loss of the runs of one experiment.

    The same runs give the same bytes with the same version of matplotlib. Runs of less than a tenth of the longest
    one's updates would be a dot at the edge: the figure names them instead.
    """
    longest = max(run.updates for run in runs)
    cells = group(runs)
    shown = [cell for cell in cells if max(run.updates for run in cell.runs) >= longest / 10]
    short = [cell.first.name for cell in cells if cell not in shown]
    dashes = _dashes(shown)
    seeds = [f" ({len(cell.runs)} seeds)" if len(cell.runs) > 1 else "" for cell in shown]
    labels = [cell.first.name + count for cell, count in zip(shown, seeds, strict=True)]
    columns = max(1, min(7, 110 // (max(map(len, labels)) + 8)))
    height = 5 + 0.2 * max(0, -(-len(labels) // columns) - 2)  # inches; a long legend must not squeeze the curves
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(10, height), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 2)
        handles = {}
        for run in (run for cell in shown for run in cell.runs):
            look = {"color": colour(run.norm), "linestyle": dashes[_way(run)], "linewidth": 1.4}
            axes[0].plot(*_columns(run.train_curve), **look)
            marker = {"marker": MARKERS.get(run.norm, "*"), "markevery": max(1, len(run.valid_curve) // 12)}
            (handles[run],) = axes[1].plot(*_columns(run.valid_curve), **look, **marker, markersize=5)
        smoothed = " (label-smoothed)" if any(run.label_smoothing for run in runs) else ""
        for axis, name, which in zip(axes, ("training", "validation"), ("train_curve", "valid_curve"), strict=True):
            axis.set_title(f"{name} loss{smoothed}")
            axis.set_xlabel("updates")
            axis.set_ylabel("loss (bits per token)")
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.xaxis.set_major_formatter("{x:,.0f}")
            _leave_out_the_start(axis, [getattr(run, which) for run in handles])
        figure.suptitle("\n".join([*_title(runs), *([f"too short to draw: {'; '.join(short)}"] if short else [])]))
        lines = [handles[cell.first] for cell in shown]
        figure.legend(lines, labels, loc="outside lower center", ncols=columns)
        # matplotlib's version is left out of the file, so that an upgrade alone does not change it
        figure.savefig(path, format="png", metadata={"Software": None})


def _leave_out_the_start(axis: Axes, curves: Sequence[Curve]) -> None:
    """Choose the loss axis by what comes after the first tenth of updates: the steep start would flatten the rest."""
    last = max((update for curve in curves for update, _ in curve), default=0)
    losses = [loss for curve in curves for update, loss in curve if update >= last / 10]
    if losses and min(losses) < max(losses):
        margin = 0.05 * (max(losses) - min(losses))
        axis.set_ylim(min(losses) - margin, max(losses) + margin)


def _title(runs: Sequence[Run]) -> list[str]:
    sizes = dict.fromkeys(run.train_size + (f" ({run.note})" if run.note else "") for run in runs)
    machines = dict.fromkeys(run.hardware for run in runs)
    lines = [": ".join(filter(None, [runs[0].experiment, "; ".join(filter(None, sizes))])), "; ".join(machines)]
    if runs[0].budget:
        shortest, longest = min(run.updates for run in runs), max(run.updates for run in runs)
        updates = f"{shortest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
        lines.insert(1, f"shortened to {updates} updates (budget={runs[0].budget})")
    if any(run.model and run.model.sees_by for run in runs):
        lines.append('"sees the future": the model reads the tokens it has to predict; not a language model\'s loss')
    return lines


def _way(run: Run) -> tuple[LanguageModel | None, tuple[str, ...]]:
    """What tells the lines of one norm apart."""
    return run.model, run.settings


def _dashes(cells: Sequence[Cell]) -> dict[tuple[LanguageModel | None, tuple[str, ...]], Any]:
    """A line style for each way to set a run; a language model has its own, with other settings all share one."""
    ways = dict.fromkeys(_way(cell.first) for cell in cells)
    settings = sorted({settings for model, settings in ways if settings and model is None})
    styles = {way: ("--", ":", "-.")[index % 3] for index, way in enumerate(settings)} | {(): "-"}

    def style(model: LanguageModel | None, settings: tuple[str, ...]) -> Any:
        if model is None:
            return styles[settings]
        return OTHER_STYLE if settings else MODEL_STYLES.get(model, "-")

    return {way: style(*way) for way in ways}


def _columns(curve: Curve) -> tuple[list[float], list[float]]:
    return [update for update, _ in curve], [loss for _, loss in curve]
