"""Draws the loss curves of an experiment, and below them the difference of each norm to LN."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normplugins.report import style
from normplugins.report.cells import Cell, baseline, group

TITLES = {"train_curve": "training loss", "valid_curve": "validation loss"}
KINDS = (("losses", "loss"), ("minus_ln", "minus ln"))
"""What the panels show, as the attribute of a line, and its name on the axis."""
FEW = 4
"""Up to this many lines share a panel. With more cells, each cell has its own panel, and LN is drawn in grey."""
STEEP = 0.1
"""The fraction at the start of training that the axis limits ignore, because its steep losses flatten the rest."""


@dataclass(frozen=True)
class Line:
    """The curve of a cell: the loss of each seed (a column each), indexed by updates.

    ``minus_ln`` is the same of the differences to ``ln``, the LN cell that differs only in the norm, run by run of the
    same seed, and empty without such runs. ``dashes`` tells the line from others of the same norm in one panel.
    """

    cell: Cell
    ln: Cell | None
    losses: pd.DataFrame
    minus_ln: pd.DataFrame
    dashes: Any

    @property
    def color(self) -> str:
        """The norm's color."""
        return style.color(self.cell.first["norm"])


def curves(results: pd.DataFrame, name: str, column: str = "valid_curve") -> Figure:
    """Return a figure of the training or the validation loss of runs of one experiment.

    A line is the mean over seeds, and a band around it reaches from the lowest to the highest seed. Runs shorter than
    a tenth of the longest one would be a dot at the edge, so the figure only names them.

    Args:
        results: the rows of one experiment and budget, with at least one curve.
        name: what the title calls them.
        column: ``train_curve`` or ``valid_curve``.
    """
    cells = [cell for cell in group(results) if len(cell.runs) and any(cell.runs[column])]
    longest = max(cell.runs["updates"].max() for cell in cells)
    shown = [cell for cell in cells if cell.runs["updates"].max() >= longest / 10]
    lines = _lines(shown, column)
    in_grey = {id(line.ln) for line in lines}
    panels = [lines] if len(lines) <= FEW else [[line] for line in lines if id(line.cell) not in in_grey]
    single = len(panels) == 1
    columns, kinds = (1 if single else 3), (KINDS if any(line.ln for line in lines) else KINDS[:1])
    rows = -(-len(panels) // columns)
    notes = _notes(cells, shown)
    with style.drawing():
        figure = style.new_figure((2.2 if single else 1.25) * len(kinds) * rows + 0.5 + 0.17 * len(notes))
        ratios = {"height_ratios": [1.3, 1][: len(kinds)] * rows}
        grid = figure.subplots(len(kinds) * rows, columns, sharex=True, squeeze=False, gridspec_kw=ratios)
        style.heading(figure, f"{name}: {TITLES[column]}", notes)
        for number, (kind, quantity) in enumerate(kinds):
            axes = list(grid[number :: len(kinds)].flat)
            for axis in axes[len(panels) :]:  # the last row is not full
                axis.remove()
            _limit(axes[: len(panels)], [getattr(line, kind) for line in lines], longest)
            for place, (axis, members) in enumerate(zip(axes, panels, strict=False)):
                _panel(axis, members, kind, lines)
                axis.tick_params(labelleft=place % columns == 0, labelbottom=number == len(kinds) - 1)
                axis.set_ylabel("" if place % columns else f"{quantity}, linear\n(bits/token)")
                if number == len(kinds) - 1 and place + columns >= len(panels):
                    axis.set_xlabel("updates, linear")
                if number == 0 and not single:
                    axis.set_title(name_of(members[0].cell), color=members[0].color, fontsize=8.5, fontweight="bold")
        if single:  # after all else, because labels are placed where there is room
            for axis, (kind, _) in zip(grid.flat, kinds, strict=True):
                means = [(line, getattr(line, kind).mean(axis=1)) for line in lines]
                ends = [(line, float(mean.iloc[-1])) for line, mean in means if len(mean)]
                style.label_lines(axis, [style.Label(end, name_of(line.cell), line.color) for line, end in ends])
    return figure


def name_of(cell: Cell) -> str:
    """Return a cell's name in lines that fit into a panel: the norm, then the last words of its settings' names."""
    first = cell.first
    settings = re.sub(r"\w+\.(?=[\w.]+=)", "", first["settings"]).split(", ")
    parts = [style.fit(part, 1.55, 8.5, "bold") for part in filter(None, [first["norm"], first["model"], *settings])]
    # a name that is too long is broken before its value, and not within a word
    return "\n".join(style.fit(part.replace("\n", "").replace("=", "=\n"), 1.55, 8.5, "bold")
                     if "\n" in part and "=" in part else part for part in parts)  # fmt: skip


def _lines(cells: Sequence[Cell], column: str) -> list[Line]:
    losses = {id(cell): _seeds(cell, column) for cell in cells}
    lns = [baseline(cell, cells) for cell in cells]
    counts: Counter[str] = Counter()
    lines = []
    for cell, ln in zip(cells, lns, strict=True):
        own, compared = losses[id(cell)], ln or (cell if cell in lns else None)  # LN has a line at 0
        minus = _paired(own, losses[id(compared)]) if compared else own.iloc[:0]
        norm = cell.first["norm"]
        lines.append(Line(cell, ln, own, minus, style.DASHES[counts[norm] % len(style.DASHES)]))
        counts[norm] += 1
    return lines


def _paired(seeds: pd.DataFrame, lns: pd.DataFrame) -> pd.DataFrame:
    """Return the losses minus those of LN with the same seed, whose runs have seen the same batches."""
    common = seeds.columns.intersection(lns.columns)
    if lns.empty or common.empty:
        return seeds.iloc[:0]
    minus = seeds.loc[(seeds.index >= lns.index[0]) & (seeds.index <= lns.index[-1]), common]
    return minus.apply(lambda losses: losses - np.interp(losses.index, lns.index, lns[losses.name]))


def _seeds(cell: Cell, column: str) -> pd.DataFrame:
    """Return the losses of each seed (a column each) at the updates that all of them have reached."""
    seeds = {row["seed"]: pd.Series(dict(row[column]), dtype=float) for _, row in cell.runs.iterrows()}
    return pd.concat(seeds, axis=1).sort_index().interpolate(method="index", limit_area="inside").dropna()


def _panel(axis: Axes, members: Sequence[Line], kind: str, lines: Sequence[Line]) -> None:
    """Draw lines with their bands, and beneath them LN if it has no line of its own in this panel."""
    behind = [line for line in lines if any(line.cell is member.ln for member in members) and line not in members]
    for line in [*behind, *members]:
        table = getattr(line, kind)
        dashes = line.dashes if len(members) > 1 else "-"
        look: dict[str, Any] = {"linestyle": dashes, "marker": "o" if len(table) == 1 else ""}
        axis.plot(table.mean(axis=1), color=line.color, linewidth=1 if line in behind else 1.5, **look)
        if table.shape[1] > 1:
            band = (table.min(axis=1), table.max(axis=1))
            axis.fill_between(table.index, *band, color=line.color, alpha=0.25, linewidth=0)
    style.count_updates(axis)


def _limit(axes: Sequence[Axes], tables: Sequence[pd.DataFrame], longest: float) -> None:
    """Give all panels the limits of the losses after the steep start."""
    later = np.concatenate([table[table.index >= STEEP * longest].to_numpy().ravel() for table in tables])
    if later.size and later.min() < later.max():
        margin = 0.05 * (later.max() - later.min())
        for axis in axes:
            axis.set_ylim(later.min() - margin, later.max() + margin)


def _notes(cells: Sequence[Cell], shown: Sequence[Cell]) -> list[str]:
    """Return what a reader has to know beside the axes, one line for each fact."""
    runs = pd.concat([cell.runs for cell in cells])
    counts = sorted({len(cell.runs) for cell in shown})
    seeds = "one seed: each line is one run"
    if counts[-1] > 1:
        seeds = f"lines: mean over seeds ({' to '.join(map(str, sorted({counts[0], counts[-1]})))})"
        seeds += "; bands: lowest to highest seed"
    has_grey = len(shown) > FEW and any(cell.first["norm"] == "ln" for cell in shown)
    grey = "grey: ln with the same other settings; " if has_grey else ""
    smoothed = "; loss is label-smoothed" if (runs["label_smoothing"] > 0).any() else ""
    paired = "; minus ln: of the same seed and other settings" if any(baseline(cell, cells) for cell in shown) else ""
    notes = [f"{grey}{seeds}{paired}{smoothed}", "losses of the first tenth of the training may lie outside the axes"]
    sizes = zip(runs["train_size"], runs["note"], strict=True)
    texts = dict.fromkeys(size + (f" ({note})" if note else "") for size, note in sizes)
    notes.append("; ".join(filter(None, [*texts, *dict.fromkeys(runs["hardware"])])))
    if budget := runs["budget"].iloc[0]:
        span = dict.fromkeys(f"{updates:,.0f}" for updates in (runs["updates"].min(), runs["updates"].max()))
        notes.append(f"shortened to {' to '.join(span)} updates (budget={budget})")
    if any(cell.model and cell.model.sees_by for cell in cells):
        notes.append('"sees the future": the model reads the tokens it has to predict; not a language model\'s loss')
    if short := [cell.label for cell in cells if cell not in shown]:
        notes.append(f"too short to draw: {'; '.join(short)}")
    return notes
