"""What the records say about scaling each token by itself, beside the contrasts of the protocol."""

import re
from collections.abc import Sequence

import pandas as pd

from normplugins.report.contrasts import CELLS, CHECKPOINTS, Contrast, Finding
from normplugins.report.probe_table import seed_numbers

BATCH_ALONE = ("bn", "pnv", "pn,norm.group_scaling=false", "pn_alg2")
"""The cells that divide by statistics of the batch alone. All others also scale each token by itself."""
_SCALING = re.compile(r",norm\.group_scaling=\w+")


def scaling_effect(findings: Sequence[Finding]) -> str:
    """Return in how many pairs of runs the one with group scaling scores higher, and by how much; "" without any."""
    scaling = [each for each in findings if each.difference and _differ_in_group_scaling(each.contrast)]
    gains = [gain for each in scaling if each.difference for gain in each.difference.by_seed]
    if not gains:
        return ""
    norms = [CELLS[each.contrast.baseline].removesuffix(" without group scaling") for each in scaling]
    higher = sum(gain > 0 for gain in gains)
    return (
        f"Not a test, because pairs of one seed are not independent: in {higher} of {len(gains)} pairs of runs that "
        f"differ in group scaling alone ({', '.join(norms)}), the run with it scores higher; the differences are "
        f"{min(gains):+.2f} to {max(gains):+.2f} BLEU."
    )


def scaled_tokens(scores: pd.DataFrame) -> str:
    """Return the scores of the cells that scale each token and of those that do not; "" unless the two groups differ.

    The scores are means over the seeds that all cells have; "" also stands for cells without such seeds. ``scores`` is
    what :func:`normplugins.report.answer.scores_on_test` returns.
    """
    by_run = scores[scores["checkpoint"] == CHECKPOINTS[0]].pivot(index="seed", columns="variant", values="value")
    if {*CELLS} - {*by_run}:
        return ""
    common = by_run.dropna()
    means = common.mean()
    alone, scaled = means[[*BATCH_ALONE]], means.drop([*BATCH_ALONE])
    if common.empty or scaled.min() <= alone.max():
        return ""
    return (
        f"Seen afterwards, and not a test either: the {len(scaled)} cells that scale each token by itself (LN and RMS "
        f"do so alone) score {scaled.min():.2f} to {scaled.max():.2f} BLEU, and the {len(alone)} without such a "
        f"scaling {alone.min():.2f} to {alone.max():.2f} (means of {seed_numbers(common.index)}, which all "
        "cells have)."
    )


def _differ_in_group_scaling(contrast: Contrast) -> bool:
    return _SCALING.sub("", contrast.system) == _SCALING.sub("", contrast.baseline)
