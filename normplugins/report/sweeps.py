"""What the records say about plans that vary one setting: batch sizes, weight decay, learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from normplugins.evaluation import significance
from normplugins.report import style
from normplugins.report.answer import figures, paired_runs
from normplugins.report.contrasts import EXPERIMENT, NOT_RUN, UNDECIDED, Contrast, Finding, find
from normplugins.report.plans import Plan
from normplugins.report.run_page import run_links
from normplugins.runs.inventory import published_records
from normplugins.runs.scored_runs import REMEDY
from normplugins.utils.json_file import read_json

HOLDS, FAILS = "holds", "does not hold"
"""The verdicts on a claim, besides ``UNDECIDED`` and ``NOT_RUN``."""
TOKENS, DECAY, RATE = "dataset.max_tokens", "optimizer.weight_decay", "optimization.lr"
BATCH_SIZE, WEIGHT_DECAY, LEARNING_RATE = "batch_size", "weight_decay", "learning_rate"
"""The plans in ``configs/campaign/``."""
WORKS = 0.5
"""A learning rate works if no run diverges and each reaches this part of the best score of its norm."""


@dataclass(frozen=True)
class Swept:
    """A cell of a plan: its norm, its value of the setting, the BLEU of each seed, and how many runs diverged."""

    cell: str
    norm: str
    value: float
    scores: tuple[float, ...]
    diverged: int


def read_sweep(results: Path, plan: str, key: str) -> list[Swept]:
    """Return the cells of a plan of Multi30k that have runs, sorted by the value of a setting.

    Args:
        results: the folder of the records.
        plan: the name of the plan.
        key: the setting. Its value in a cell that does not name it is the one of the experiment, from a record.
    """
    read: dict[str, tuple[list[dict[str, Any]], int]] = {}
    for experiment, cell in Plan.named(plan).cells:
        ended, lost = published_records(results, experiment, cell)
        read[cell] = ([read_json(path, REMEDY) or {} for path in ended], len(lost))
    named = {cell: dict(item.partition("=")[::2] for item in cell.split(",")) for cell in read}
    usual = (record["config"].get(key) for cell in read if key not in named[cell] for record in read[cell][0])
    default = next((value[0] if isinstance(value, list) else value for value in usual if value is not None), None)
    swept = []
    for cell, (records, diverged) in read.items():
        value = named[cell].get(key, default)
        if (records or diverged) and value is not None:
            scores = tuple(record["metrics"]["bleu"]["score"] for record in records if "bleu" in record["metrics"])
            swept.append(Swept(cell, cell.partition(",")[0], float(value), scores, diverged))
    return sorted(swept, key=lambda each: each.value)


def batch_sizes(results: Path) -> Figure | None:
    """Return a figure of the scores against the tokens a batch; None unless a norm has runs with two sizes."""
    swept = read_sweep(results, BATCH_SIZE, TOKENS)
    norms = dict.fromkeys(each.norm for each in swept)
    by_norm = {norm: [each for each in swept if each.norm == norm and each.scores] for norm in norms}
    lines = {norm: cells for norm, cells in by_norm.items() if len(cells) > 1}
    if not lines:
        return None
    counts = sorted({len(each.scores) for cells in lines.values() for each in cells})
    notes = [f"a point is the mean over seeds ({' or '.join(map(str, counts))}), a bar reaches from the lowest to the "
             "highest seed; equal epochs at every size"]  # fmt: skip
    if lost := sum(each.diverged for each in swept):
        notes.append(f"runs that diverged and are not shown: {lost}")
    with style.drawing():
        figure = style.new_figure(3.4)
        axis = figure.subplots()
        style.heading(figure, "multi30k: test BLEU against tokens a batch", notes)
        labels = []
        for number, (norm, cells) in enumerate(lines.items()):
            means = np.array([np.mean(each.scores) for each in cells])
            around = means - [min(each.scores) for each in cells], [max(each.scores) for each in cells] - means
            places = [each.value * 1.03 ** (number - len(lines) / 2) for each in cells]  # bars do not cover each other
            axis.errorbar(places, means, around, fmt="o-", markersize=5, capsize=2, color=style.colour(norm))
            labels.append(style.Label(float(means[-1]), norm, style.colour(norm)))
        sizes = sorted({each.value for cells in lines.values() for each in cells})
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("tokens a batch, log")
        axis.set_ylabel("test BLEU, linear")
        style.label_lines(axis, labels)
    return figure


def small_batches(results: Path, resamples: int = significance.RESAMPLES) -> tuple[str, str]:
    """Judge whether BN (as released) falls behind LN at small batches: verdict and evidence."""
    cells = {(each.value, each.norm): each.cell for each in read_sweep(results, BATCH_SIZE, TOKENS)}
    pairs = {size: (cells[size, "bn_released"], cells[size, "ln"])
             for size, norm in cells if norm == "ln" and (size, "bn_released") in cells}  # fmt: skip
    judged = _find(results, BATCH_SIZE, list(pairs.values()), resamples)
    found = {size: each for size, each in zip(pairs, judged, strict=True) if each.difference is not None}
    if len(found) < 2:
        return NOT_RUN, "No two batch sizes have runs of BN and LN with the same seed."
    small, large = found[min(found)], found[max(found)]
    verdict = UNDECIDED
    if "equivalent" in small.verdict or "better" in small.verdict:
        verdict = FAILS
    elif "worse" in small.verdict and small.interval and large.interval and small.interval[1] < large.interval[0]:
        verdict = HOLDS
    said = "; ".join(f"{size:,.0f} tokens: {figures(each)}" for size, each in found.items())
    return verdict, (
        f"BN as released - LN at {said}. The claim holds if BN is worse at the smallest size, with an interval below "
        f"the one at the largest. {paired_runs(results, *found.values())}"
    )


def weight_decay(results: Path, resamples: int = significance.RESAMPLES) -> tuple[str, str]:
    """Judge whether weight decay and a control with a matched learning rate are equivalent: verdict and evidence."""
    cells = [cell for _, cell in Plan.named(WEIGHT_DECAY).cells]
    decayed, control = (next(cell for cell in cells if key in cell) for key in (DECAY, RATE))
    plain = next(cell for cell in cells if "," not in cell)
    matched, alone = _find(results, WEIGHT_DECAY, [(decayed, control), (decayed, plain)], resamples)
    if matched.difference is None:
        return NOT_RUN, "No seed has both the run with weight decay and its control with a matched learning rate."
    verdict = {"equivalent": HOLDS, "better": FAILS, "worse": FAILS}.get(matched.verdict.split(", ")[-1], UNDECIDED)
    if verdict == HOLDS and "equivalent" in alone.verdict:
        verdict = UNDECIDED  # weight decay has no effect that the control could explain
    return verdict, (
        f"Weight decay minus the control with a matched learning rate: {figures(matched)}. Weight decay minus the "
        f"unchanged recipe: {figures(alone)}. The claim holds if the first two are equivalent and the second two are "
        f"not. {paired_runs(results, matched, alone)}"
    )


def learning_rates(results: Path) -> tuple[str, str]:
    """Judge whether LN trains at a larger learning rate than no norm does: verdict and evidence."""
    swept = read_sweep(results, LEARNING_RATE, RATE)
    tried = {norm: [each for each in swept if each.norm == norm] for norm in ("ln", "none")}
    if any(len(cells) < 2 for cells in tried.values()):
        return NOT_RUN, "LN and no norm need runs with at least two learning rates each."
    largest, said = {}, []
    for norm, cells in tried.items():
        best = max((score for each in cells for score in each.scores), default=0.0)
        works = [e.value for e in cells if not e.diverged and e.scores and min(e.scores) >= WORKS * best]
        largest[norm] = max(works, default=0.0)
        rates = ", ".join(f"{e.value:g} ({_outcome(e)})" for e in cells)
        said.append(f"{norm}: {rates}; largest rate that works: {largest[norm] or 'none'}")
    ln, none = ({each.value for each in cells} for cells in tried.values())
    decided = ln == none and all(len(each.scores) + each.diverged > 1 for each in swept)
    if decided and min(largest.values()) < max(ln):
        verdict = HOLDS if largest["ln"] > largest["none"] else FAILS
    else:
        verdict = UNDECIDED  # one seed, other rates, or both work at the largest rate
    return verdict, (
        f"{'. '.join(said)}. These are norms of the encoder; the decoder has LN. A rate works if no run diverges and "
        f"each reaches {WORKS:.0%} of the best score of its norm. "
        f"{run_links(results, EXPERIMENT, *(each.cell for each in swept))}"
    )


def _outcome(each: Swept) -> str:
    parts = [f"BLEU {np.mean(each.scores):.2f}"] if each.scores else []
    return ", ".join([*parts, *([f"{each.diverged} diverged"] if each.diverged else [])])


def _find(results: Path, plan: str, pairs: Sequence[tuple[str, str]], resamples: int) -> list[Finding]:
    contrasts = [Contrast(system, baseline, plan) for system, baseline in pairs]
    return find(results, contrasts=contrasts, resamples=resamples, plan=Plan.named(plan))
