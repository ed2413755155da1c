"""Draws the loss curves of an experiment, and below them how each cell differs from LN or from its usual setting."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from normplugins.report import style
from normplugins.report.cells import COMPARED_WITH, Cell, group, references, runs_that_diverged, shared_settings
from normplugins.report.probe_table import seed_numbers
from normplugins.report.readings import MODELS
from normplugins.report.records import distinct

TITLES = {"train_curve": "training loss", "valid_curve": "validation loss"}
KINDS = ("losses", "differences")
"""What the panels show: names of attributes of :class:`Line`."""
FEW = 4
"""Up to this many lines share a panel. With more cells, each cell has its own panel, and LN is drawn in gray."""
STEEP = 0.1
"""The axis limits ignore this fraction of training at its start, where steep losses would flatten the rest."""


@dataclass(frozen=True)
class Line:
    """The curve of a cell: the loss of each seed (a column each), indexed by updates.

    ``differences`` holds, in the same form, the losses minus those of the cell ``reference`` (see ``cells.references``)
    with the same seed; it is empty if no seed is common. ``dashes`` distinguishes lines of the same norm in one panel.
    """

    cell: Cell
    reference: Cell | None
    losses: pd.DataFrame
    differences: pd.DataFrame
    dashes: Any

    @property
    def color(self) -> str:
        """The norm's color."""
        return style.color(self.cell.first["norm"])


def curves(results: pd.DataFrame, name: str, column: str = "valid_curve") -> Figure:
    """Return a figure of the training or the validation loss of runs of one experiment.

    A line is the mean over seeds, and a band around it reaches from the lowest to the highest seed. Runs shorter than
    a tenth of the longest one would be a dot at the edge, so the figure only names them.
    ``results`` are the rows of one experiment and budget, with at least one curve; the title calls them ``name``.
    """
    every = group(results)
    lacking = [f"{cell.label} ({seed_numbers(without['seed'])})" for cell in every
               if len(without := cell.runs[~cell.runs[column].map(bool)])]  # fmt: skip
    cells = [cell for cell in group(results[results[column].map(bool)]) if len(cell.runs)]
    longest = max(cell.runs["updates"].max() for cell in cells)
    shown = [cell for cell in cells if cell.runs["updates"].max() >= longest / 10]
    name_of_reference, lines = _lines(shown, column)
    in_gray = {line.reference for line in lines}
    panels = [lines] if len(lines) <= FEW else [[line] for line in lines if line.cell not in in_gray]
    panels.sort(key=_without_difference)  # stable; the space below them is empty
    single, compared = len(panels) == 1, any(line.reference for line in lines)
    columns, kinds = (1 if single else 3), (KINDS if compared else KINDS[:1])
    rows = -(-len(panels) // columns)
    names = {cell: name_of(cell) for cell in shown}
    notes = _notes(cells, shown, name_of_reference if compared else "")
    notes += [f"without a curve: {'; '.join(lacking)}"] if lacking else []
    notes += [*runs_that_diverged(every), *shared_settings(cells)]
    with style.drawing():
        figure = style.new_figure((2.2 if single else 1.25) * len(kinds) * rows + 0.5 + 0.17 * len(notes))
        ratios = {"height_ratios": [1.3, 1][: len(kinds)] * rows}
        grid = figure.subplots(len(kinds) * rows, columns, sharex=True, squeeze=False, gridspec_kw=ratios)
        style.heading(figure, f"{name}: {TITLES[column]}", notes)
        for number, kind in enumerate(kinds):
            quantity = ("minus ln" if name_of_reference == "ln" else "difference") if number else "loss"
            axes = list(grid[number :: len(kinds)].flat)
            for axis in axes[len(panels) :]:  # the last row is not full
                axis.remove()
            _limit(axes[: len(panels)], [getattr(line, kind) for line in lines], longest)
            for place, (axis, members) in enumerate(zip(axes, panels, strict=False)):
                if number and _without_difference(members):
                    axis.remove()
                    continue
                _panel(axis, members, kind, lines)
                lowest = number == len(kinds) - 1 or _without_difference(members)
                axis.tick_params(labelleft=place % columns == 0, labelbottom=lowest)
                axis.set_ylabel("" if place % columns else f"{quantity}, linear\n(bits/token)")
                if lowest and place + columns >= len(panels):
                    axis.set_xlabel("updates, linear")
                if number == 0 and not single:
                    (line,) = members
                    axis.set_title(names[line.cell], color=line.color, fontsize=8.5, fontweight="bold")
        if single:  # last, because labels are placed where there is room
            for axis, kind in zip(grid.flat, kinds, strict=True):
                means = [(line, getattr(line, kind).mean(axis=1)) for line in lines]
                ends = [(line, float(mean.iloc[-1])) for line, mean in means if len(mean)]
                style.label_lines(axis, [style.Label(end, names[line.cell], line.color) for line, end in ends])
    return figure


def _without_difference(members: Sequence[Line]) -> bool:
    return all(line.differences.empty for line in members)


def name_of(cell: Cell) -> str:
    """Return a cell's name in lines that fit into a panel; settings are named by the last part of their keys."""
    first = cell.first
    settings = [re.sub(r"\w+\.(?=[\w.]+=)", "", item) for item in cell.own_settings]
    parts = [style.fit(part, 1.55, 8.5, "bold") for part in filter(None, [first["norm"], first["model"], *settings])]
    # a name that is too long is broken before its value, and not within a word
    return "\n".join(style.fit(part.replace("\n", "").replace("=", "=\n"), 1.55, 8.5, "bold")
                     if "\n" in part and "=" in part else part for part in parts)  # fmt: skip


def _lines(cells: Sequence[Cell], column: str) -> tuple[str, list[Line]]:
    losses = {cell: _seeds(cell, column) for cell in cells}
    name, compared_with = references(cells)
    counts: Counter[str] = Counter()
    lines = []
    for cell, reference in zip(cells, compared_with, strict=True):
        own, other = losses[cell], reference or (cell if cell in compared_with else None)  # a reference lies at 0
        differences = _paired(own, losses[other]) if other else own.iloc[:0]
        norm = cell.first["norm"]
        lines.append(Line(cell, reference, own, differences, style.DASHES[counts[norm] % len(style.DASHES)]))
        counts[norm] += 1
    return name, lines


def _paired(seeds: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Return the losses minus the losses with the same seed in ``others``; both runs have seen the same batches."""
    common = seeds.columns.intersection(others.columns)
    if others.empty or common.empty:
        return seeds.iloc[:0]
    minus = seeds.loc[(seeds.index >= others.index[0]) & (seeds.index <= others.index[-1]), common]
    return minus.apply(lambda losses: losses - np.interp(losses.index, others.index, others[losses.name]))


def _seeds(cell: Cell, column: str) -> pd.DataFrame:
    """Return the losses of each seed (a column each) at the updates that all of them have reached."""
    seeds = {row["seed"]: pd.Series(dict(row[column]), dtype=float) for _, row in cell.runs.iterrows()}
    return pd.concat(seeds, axis=1).sort_index().interpolate(method="index", limit_area="inside").dropna()


def _panel(axis: Axes, members: Sequence[Line], kind: str, lines: Sequence[Line]) -> None:
    """Draw lines with their bands, and behind them their reference if it has no line of its own in this panel."""
    references = {line.reference for line in members}
    behind = [line for line in lines if line.cell in references and line not in members]
    for line in [*behind, *members]:
        table = getattr(line, kind)
        color, width = line.color, 1.5
        dashes = line.dashes if len(members) > 1 else "-"
        if line in behind:
            color, width, dashes = style.GREY, 1, ":"
        marker = "o" if len(table) == 1 else ""
        axis.plot(table.mean(axis=1), color=color, linewidth=width, linestyle=dashes, marker=marker)
        if table.shape[1] > 1:
            band = (table.min(axis=1), table.max(axis=1))
            axis.fill_between(table.index, *band, color=color, alpha=0.25, linewidth=0)
    axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def _limit(axes: Sequence[Axes], tables: Sequence[pd.DataFrame], longest: float) -> None:
    """Set the y limits of all panels to the range of the losses after the steep start."""
    later = np.concatenate([table[table.index >= STEEP * longest].to_numpy().ravel() for table in tables])
    if later.size and later.min() < later.max():
        margin = 0.05 * (later.max() - later.min())
        for axis in axes:
            axis.set_ylim(later.min() - margin, later.max() + margin)


def _notes(cells: Sequence[Cell], shown: Sequence[Cell], reference: str) -> list[str]:
    """Return the notes under the figure, one fact each; ``reference`` may be empty."""
    runs = pd.concat([cell.runs for cell in cells])
    counts = sorted({len(cell.runs) for cell in shown})
    seeds = "one seed: each line is one run"
    if counts[-1] > 1:
        seeds = f"lines: mean over seeds ({' to '.join(map(str, sorted({counts[0], counts[-1]})))})"
        seeds += "; bands: lowest to highest seed"
    has_gray = reference and len(shown) > FEW
    gray = f"gray, dotted: {COMPARED_WITH[reference]}; " if has_gray else ""
    smoothed = "; loss is label-smoothed" if (runs["label_smoothing"] > 0).any() else ""
    difference = "minus ln: of" if reference == "ln" else f"difference: to {COMPARED_WITH.get(reference)}, with"
    paired = f"; {difference} the same seed" if reference else ""
    notes = [f"{gray}{seeds}{paired}{smoothed}", "losses of the first tenth of the training may lie outside the axes"]
    sizes = zip(runs["train_size"], runs["note"], strict=True)
    texts = dict.fromkeys(size + (f" ({note})" if note else "") for size, note in sizes)
    notes.append("; ".join(filter(None, [*texts, distinct(runs["hardware"])])))
    if budget := runs["budget"].iloc[0]:
        span = dict.fromkeys(f"{updates:,.0f}" for updates in (runs["updates"].min(), runs["updates"].max()))
        notes.append(f"shortened to {' to '.join(span)} updates (budget={budget})")
    if any(MODELS.get(cell.first["model"]) for cell in cells):
        notes.append('"sees the future": the model reads the tokens it has to predict; not a language model\'s loss')
    if short := [cell.label for cell in cells if cell not in shown]:
        notes.append(f"too short to draw: {'; '.join(short)}")
    return notes
