"""Draws the final scores of an experiment with their 95 % intervals, and beside them differences between cells."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normplugins.evaluation.significance import LEVEL, Resampled
from normplugins.evaluation.student import interval_of_mean
from normplugins.report import style
from normplugins.report.cells import COMPARED_WITH, SPREAD_SEEDS, group, metric_name, references
from normplugins.report.contrasts import Contrast, ScoredSystems, comparable, read_cells
from normplugins.report.figures import common_settings, name_of
from normplugins.report.records import LOCAL
from normplugins.runs import scored_runs

LOG_FROM = 4
"""The axis of scores is logarithmic if the highest score is more than this multiple of the lowest."""
PAIRED = "with the same seeds; ━●━ intervals over seeds and sentences, not adjusted"


def final_scores(results: pd.DataFrame, name: str, folder: Path) -> Figure | None:
    """Return a dot plot of the test scores of runs of one experiment; None if no score has an interval.

    Args:
        results: the rows of one experiment and budget.
        name: what the title calls them.
        folder: the folder of the published results, which has no translations of local runs.

    Raises:
        UserError: a record or its translations are damaged, or two cells cannot be compared.
    """
    every = [cell for cell in group(results) if len(cell.runs)]
    metric = next((metric for metric in scored_runs.METRICS if any(len(cell.values(metric)) for cell in every)), None)
    if metric is None:
        return None
    scored_cells = [cell for cell in every if len(cell.values(metric))]
    experiment, checkpoint = scored_cells[0].first["experiment"], scored_cells[0].first["scored_by"]
    cells = [cell for cell in scored_cells if len(cell.values(metric, checkpoint))]
    reference, compared_with = references(cells)
    published = [cell for cell in cells if metric != "ppl" and LOCAL not in cell.first["settings"].split(", ")]
    names = {cell: cell.first["variant"] for cell in published}
    systems = comparable(read_cells(folder, checkpoint, experiment, names.values()))
    others = [name for name in names.values() if name not in systems]
    names = {cell: name for cell, name in names.items() if name in systems}
    scored = ScoredSystems(systems)
    scores = [[float(value) for value in cell.values(metric, checkpoint)] for cell in cells]
    intervals = [
        _interval(values, scored.runs.get(names.get(cell, ""), {}).get(cell.first["seed"]))
        for values, cell in zip(scores, cells, strict=True)
    ]
    if not any(intervals):
        return None
    differences = []
    for cell, other in zip(cells, compared_with, strict=True):
        found = None
        if cell in names and other in names:
            seeds = {*cell.runs["seed"]} & {*other.runs["seed"]}
            found = scored.difference(Contrast(names[cell], names[other]), seeds) if seeds else None
        differences.append(found)
    common = common_settings(cells)
    labels = [name_of(cell, common) for cell in cells]
    short = "perplexity" if metric == "ppl" else metric_name(metric)
    where = "left, " if any(differences) else ""
    notes = [f"{'lower' if metric == 'ppl' else 'higher'} is better", *_notes(scores, intervals, where)]
    notes += [f"right: minus {COMPARED_WITH[reference]}, {PAIRED}"] if any(differences) else []
    notes += [f"not compared, because test sets or signatures differ: {', '.join(others)}"] if others else []
    notes += [f"all: {', '.join(common)}"] if common else []
    lines = sum(max(2, label.count("\n") + 1) for label in labels)
    with style.drawing():
        figure = style.new_figure(0.17 * (lines + len(notes) + 2) + 1)
        axes = figure.subplots(1, 2 if any(differences) else 1, sharey=True, squeeze=False)[0]
        style.heading(figure, f"{name}: test {short}, {checkpoint} checkpoint", notes)
        for row, (cell, values, interval, found) in enumerate(zip(cells, scores, intervals, differences, strict=True)):
            color = style.color(cell.first["norm"])
            style.dot(axes[0], row, float(np.mean(values)), interval, color, len(values) > 1)
            if len(values) > 1:
                axes[0].plot(values, [row] * len(values), "|", color=color, markersize=9)
            if found is not None:
                style.dot(axes[1], row, found.mean, found.interval, color, len(found.seeds) > 1)
        logarithmic = max(map(max, scores)) > LOG_FROM * min(map(min, scores)) > 0
        axes[0].set_xlabel(f"{short}, {'log' if logarithmic else 'linear'}")
        axes[0].set_yticks(range(len(labels)), labels)
        axes[0].set_ylim(len(labels) - 0.5, -0.5)
        for axis in axes[logarithmic:]:
            axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        if logarithmic:
            axes[0].set_xscale("log")
        if len(axes) > 1:
            axes[1].axvline(0, color=style.GREY, linewidth=1)
            axes[1].set_xlabel(f"{short} minus {reference}, linear")
            axes[1].tick_params(left=False)
    return figure


def _interval(scores: Sequence[float], run: Resampled | None) -> tuple[float, float] | None:
    """Return the bounds of the 95 % interval over seeds or, for one seed with translations, over its sentences.

    Two seeds have none: it would be as wide as the figure.
    """
    if len(scores) > 1:
        return interval_of_mean(scores) if len(scores) >= SPREAD_SEEDS else None
    if run is None:
        return None
    low, high = np.quantile(run.resamples, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def _notes(scores: Sequence[Sequence[float]], intervals: Sequence[tuple[float, float] | None], where: str) -> list[str]:
    """Return notes that explain the intervals; ``where`` names the panel, if there are two."""
    single = [interval for values, interval in zip(scores, intervals, strict=True) if len(values) == 1]
    most = max(map(len, scores))
    notes = ["| each seed, ● their mean"] if most > 1 else []
    notes += [f"━●━ {where}from {SPREAD_SEEDS} seeds on: 95 % intervals over seeds"] if most >= SPREAD_SEEDS else []
    notes += ["─○─ one seed: 95 % intervals over sentences only, no verdict"] if any(single) else []
    return notes + (["○ without a bar: one seed without published translations"] if not all(single) else [])
