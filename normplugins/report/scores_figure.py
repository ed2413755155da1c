"""Draws the final scores of an experiment: each seed, and the mean of each cell with its 95 % interval."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normplugins.evaluation.student import interval_of_mean
from normplugins.report import style
from normplugins.report.cells import SPREAD_SEEDS, group, runs_that_diverged, shared_settings
from normplugins.report.loss_curves_figure import name_of
from normplugins.report.metrics import metric_name
from normplugins.runs.scored_runs import METRICS

LOG_FROM = 4
"""The axis of scores is logarithmic if the highest score is more than this multiple of the lowest."""


def final_scores(results: pd.DataFrame, name: str) -> Figure | None:
    """Return a dot plot of the test scores of runs of one experiment; None if no cell has two scores.

    ``results`` are the rows of one experiment and budget; the title calls them ``name``.
    """
    every = group(results)
    metric = next((metric for metric in METRICS if any(len(cell.values(metric)) for cell in every)), "")
    scored = [cell for cell in every if len(cell.values(metric))]
    checkpoint = scored[0].first["scored_by"] if scored else ""
    scores = {cell: [float(value) for value in cell.values(metric, checkpoint)] for cell in scored}
    scores = {cell: values for cell, values in scores.items() if values}
    counts = {len(values) for values in scores.values()}
    if max(counts, default=0) < 2:
        return None
    labels = [name_of(cell) for cell in scores]
    short = "perplexity" if metric == "ppl" else metric_name(metric)
    notes = [f"{'lower' if metric == 'ppl' else 'higher'} is better"]
    intervals = f", ━ its 95 % t interval over seeds (from {SPREAD_SEEDS} seeds on)"
    notes += [f"| each seed; ● their mean{intervals if max(counts) >= SPREAD_SEEDS else ''}"]
    notes += ["○ one seed"] if 1 in counts else []
    notes += [*runs_that_diverged(every), *shared_settings(every)]
    lines = sum(max(2, label.count("\n") + 1) for label in labels)
    with style.drawing():
        figure = style.new_figure(0.17 * (lines + len(notes) + 2) + 1)
        axis = figure.subplots()
        style.heading(figure, f"{name}: test {short}, {checkpoint} checkpoint", notes)
        for row, (cell, values) in enumerate(scores.items()):
            color, several = style.color(cell.first["norm"]), len(values) > 1
            interval = interval_of_mean(values) if len(values) >= SPREAD_SEEDS else None
            style.dot(axis, row, float(np.mean(values)), interval, color, several)
            if several:
                axis.plot(values, [row] * len(values), "|", color=color, markersize=9)
        highest, lowest = max(map(max, scores.values())), min(map(min, scores.values()))
        logarithmic = highest > LOG_FROM * lowest > 0
        axis.set_xlabel(f"{short}, {'log' if logarithmic else 'linear'}")
        axis.set_yticks(range(len(labels)), labels)
        axis.set_ylim(len(labels) - 0.5, -0.5)
        if logarithmic:
            axis.set_xscale("log")
        else:
            axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    return figure
