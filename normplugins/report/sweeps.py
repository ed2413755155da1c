"""What the records say about plans that vary one setting: batch sizes, weight decay, learning rates."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from normplugins.report import style
from normplugins.report.answer import describe_difference, small_before_holm
from normplugins.report.cells import SPREAD_SEEDS
from normplugins.report.contrasts import EXPERIMENT, NOT_RUN, UNDECIDED, so_far
from normplugins.report.evidence import FAILS, HOLDS, OPEN, Evidence, links_of_pairs
from normplugins.report.plans import Plan, experiment_setting
from normplugins.report.processors import mixed_pairs
from normplugins.report.records import WHOLE_TEST_SET

TOKENS, DECAY, RATE = "dataset.max_tokens", "optimizer.weight_decay", "optimization.lr"
BATCH_SIZE, ONE_SENTENCE, WEIGHT_DECAY, LEARNING_RATE = "batch_size", "one_sentence", "weight_decay", "learning_rate"
"""The plans in ``configs/campaign/``."""
MIN_SCORE_FRACTION = 0.5
"""A learning rate works if no run diverges and each reaches this fraction of the best score of its norm."""


def read_sweep(found: pd.DataFrame, plan: str, key: str) -> pd.DataFrame:
    """Return the published runs of a plan of Multi30k, sorted by the value of the setting ``key``.

    A row is a run: its ``cell``, ``norm``, ``value`` of the setting (the experiment's if the cell does not name it),
    ``bleu``, and whether it ``diverged``.
    """
    found = found[found["experiment"] == EXPERIMENT].set_index(["variant", "seed"])
    whole = (found["metric"] == "bleu") & (found["test_set"] == WHOLE_TEST_SET)
    scores = found.loc[whole & (found["checkpoint"] == found["scored_by"]), "value"]
    lost = found["diverged"].groupby(level=[0, 1]).first() != ""
    rows: list[tuple[Any, ...]] = []
    usual = np.ravel(experiment_setting(EXPERIMENT, key))[0]
    for (_, cell), seeds in Plan.named(plan).cells.items():
        norm, *settings = cell.split(",")
        value = float(dict(item.partition("=")[::2] for item in settings).get(key, usual))
        runs = [(cell, seed) for seed in seeds if (cell, seed) in lost.index]
        rows += [(cell, norm, value, scores.get(run, math.nan), lost[run]) for run in runs]
    swept = pd.DataFrame(rows, columns=["cell", "norm", "value", "bleu", "diverged"])
    return swept.sort_values("value", kind="stable")


def batch_sizes(found: pd.DataFrame) -> Figure | None:
    """Return a figure of the scores against the tokens per batch; None unless a norm has runs with two sizes."""
    swept = read_sweep(found, BATCH_SIZE, TOKENS)
    cells = swept.dropna(subset="bleu").groupby(["norm", "value"], sort=False)["bleu"]
    points = cells.agg(["mean", "min", "max", "count"]).reset_index()
    lines = [(str(norm), line) for norm, line in points.groupby("norm", sort=False) if len(line) > 1]
    if not lines:
        return None
    shown = pd.concat([line for _, line in lines])
    counts = " or ".join(map(str, sorted(shown["count"].unique())))
    notes = [f"a point is the mean over seeds ({counts}), a bar reaches from the lowest to the highest seed; equal "
             "epochs at every size"]  # fmt: skip
    if lost := swept["diverged"].sum():
        notes.append(f"runs that diverged and are not shown: {lost}")
    with style.drawing():
        figure = style.new_figure(3.4)
        axis = figure.subplots()
        style.heading(figure, "multi30k: test BLEU against tokens per batch", notes)
        labels = []
        for number, (norm, line) in enumerate(lines):
            mean, color = line["mean"], style.color(norm)
            places = line["value"] * 1.03 ** (number - len(lines) / 2)  # so that bars do not cover each other
            bars = [mean - line["min"], line["max"] - mean]
            axis.errorbar(places, mean, bars, fmt="o-", markersize=5, capsize=2, color=color)
            labels.append(style.Label(float(mean.iloc[-1]), norm, color))
        sizes = sorted(shown["value"].unique())
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("tokens per batch, log")
        axis.set_ylabel("test BLEU, linear")
        style.label_lines(axis, labels)
    return figure


def small_batches(evidence: Evidence) -> tuple[str, str]:
    """Judge whether BN (as released) falls behind LN at small batches; return the verdict and the evidence."""
    cells = read_sweep(evidence.found, BATCH_SIZE, TOKENS).drop_duplicates("cell")
    pairs = cells.pivot(index="value", columns="norm", values="cell").reindex(columns=["bn_released", "ln"]).dropna()
    judged = evidence.compare(BATCH_SIZE, pairs.itertuples(index=False, name=None))
    found = dict(zip(pairs.index, judged, strict=True))
    found = {size: each for size, each in found.items() if each.difference or any(each.diverged)}
    if len(found) < 2:
        return NOT_RUN, "No two batch sizes have runs of BN as released and LN with the same seed."
    small, large = found[min(found)], found[max(found)]
    verdict = UNDECIDED
    if {"equivalent", "better"} & {*small.parts}:
        verdict = FAILS
    elif small.difference and large.difference and small.worse:
        verdict = HOLDS if small.difference.interval[1] < large.difference.interval[0] else UNDECIDED
    elif small.worse and not small.difference and large.difference and not large.worse:  # all runs of small diverged
        verdict = HOLDS
    differences = "; ".join(f"{size:,.0f} tokens: {describe_difference(each)}" for size, each in found.items())
    return so_far(verdict, evidence.ended(BATCH_SIZE)), (
        f"BN as released - LN at {differences}. The claim holds if BN is worse and not equivalent at the smallest "
        "size, with an interval below the one at the largest, or if all its runs diverged there. Every size has the "
        "same learning rate and number of epochs, so smaller batches make more updates. "
        f"{links_of_pairs(*found.values())}"
    )


def one_sentence(evidence: Evidence) -> tuple[str, str]:
    """Judge whether BN falls behind LN when a batch has one sentence; return the verdict and the evidence."""
    cells = {cell.partition(",")[0]: cell for _, cell in Plan.named(ONE_SENTENCE).cells}
    others = [norm for norm in cells if norm != "ln"]
    judged = evidence.compare(ONE_SENTENCE, [(cells[norm], cells["ln"]) for norm in others])
    found = dict(zip(others, judged, strict=True))
    forms = [each for norm, each in found.items() if norm.startswith("bn")]
    if not all(each.difference or any(each.diverged) for each in forms):
        return NOT_RUN, "LN and both forms of BN have no seed in common yet."
    if any({"equivalent", "better"} & {*each.parts} for each in forms):
        verdict = FAILS
    else:
        verdict = HOLDS if all(each.worse for each in forms) else UNDECIDED
    differences = "; ".join(f"{norm} - ln: {describe_difference(each)}" for norm, each in found.items())
    return so_far(verdict, evidence.ended(ONE_SENTENCE)), (
        f"{differences}. The claim holds if both forms of BN are worse than LN and not equivalent to it. "
        f"{links_of_pairs(*found.values())}"
    )


def weight_decay(evidence: Evidence) -> tuple[str, str]:
    """Judge whether weight decay equals a control with a matched learning rate; return the verdict and the evidence."""
    cells = [cell for _, cell in Plan.named(WEIGHT_DECAY).cells]
    decayed, control = (next(cell for cell in cells if key in cell) for key in (DECAY, RATE))
    plain = next(cell for cell in cells if "," not in cell)
    matched, alone = evidence.compare(WEIGHT_DECAY, [(decayed, control), (decayed, plain)])
    if matched.difference is None:
        return NOT_RUN, "No seed has both the run with weight decay and its control with a matched learning rate."
    verdict = {"equivalent": HOLDS, "better": OPEN, "worse": OPEN}.get(matched.parts[-1], UNDECIDED)
    if verdict == HOLDS and not {"better", "worse"} & {*alone.parts}:
        verdict = UNDECIDED  # weight decay has shown no effect that the control could explain
    small = small_before_holm(matched)
    mixed = mixed_pairs([matched, alone], evidence.found[evidence.found["experiment"] == EXPERIMENT])
    processors = (
        f"The processors of the two runs differ in {mixed[0]} of {matched.seeds} pairs of the first comparison and in "
        f"{mixed[1]} of {alone.seeds} pairs of the second. "
    )
    return so_far(verdict, matched.final and alone.final), (
        f"`{decayed}` minus the control with a matched learning rate, `{control}`: {describe_difference(matched)}. "
        f"`{decayed}` minus the unchanged recipe, `{plain}`: {describe_difference(alone)}. "
        f"{f'The first difference is undecided: {small}. ' if small else ''}"
        f"{processors if any(mixed) else ''}"
        "The claim holds if weight decay and its control are equivalent, and weight decay differs from the unchanged "
        "recipe. If weight decay differs from its control, the claim stays open, because the control only matches the "
        f"mean of the learning rate: these runs cannot refute the claim. {links_of_pairs(matched, alone)}"
    )


def learning_rates(evidence: Evidence) -> tuple[str, str]:
    """Judge whether LN trains at a larger learning rate than no norm; return the verdict and the evidence."""
    swept = read_sweep(evidence.found, LEARNING_RATE, RATE)
    tried: dict[str, dict[Any, pd.DataFrame]] = {
        norm: dict(iter(swept[swept["norm"] == norm].groupby("value"))) for norm in ("ln", "none")
    }
    if any(len(rates) < 2 for rates in tried.values()):
        return NOT_RUN, "LN and the model without a norm each need runs with at least two learning rates."
    largest, summaries = {}, []
    for norm, rates in tried.items():
        least = MIN_SCORE_FRACTION * swept.loc[swept["norm"] == norm, "bleu"].max()
        works = [rate for rate, runs in rates.items() if not runs["diverged"].any() and runs["bleu"].min() >= least]
        largest[norm] = max(works, default=0.0)
        outcomes = ", ".join(f"{rate:g} ({_outcome(runs)})" for rate, runs in rates.items())
        summaries.append(f"{norm}: {outcomes}; largest rate that works: {largest[norm] or 'none'}")
    decided = tried["ln"].keys() == tried["none"].keys() and swept.groupby("cell").size().min() >= SPREAD_SEEDS
    if decided and min(largest.values()) < max(tried["ln"]):
        verdict = HOLDS if largest["ln"] > largest["none"] else FAILS
    else:
        verdict = UNDECIDED  # too few seeds, different rates, or both work at the largest rate
    return so_far(verdict, evidence.ended(LEARNING_RATE)), (
        f"{'. '.join(summaries)}. These are norms of the encoder; the decoder has LN. A rate works if no run diverges "
        f"and each reaches {100 * MIN_SCORE_FRACTION:.0f} % of the best score of its norm. "
        f"{evidence.links(*swept['cell'])}"
    )


def _outcome(runs: pd.DataFrame) -> str:
    score = f"BLEU {runs['bleu'].mean():.2f}" if runs["bleu"].notna().any() else ""
    lost = f"{runs['diverged'].sum()} diverged" if runs["diverged"].any() else ""
    return ", ".join(filter(None, [score, lost]))
