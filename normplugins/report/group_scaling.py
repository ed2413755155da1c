"""What the records say about scaling each token by itself, beside the contrasts of the protocol."""

import pandas as pd

from normplugins.report.contrasts import CELLS, CHECKPOINTS
from normplugins.report.probe_table import seed_numbers

BATCH_ALONE = ("bn", "pnv", "pn,norm.group_scaling=false", "pn_alg2")
"""The cells that divide by statistics of the batch alone. All others also scale each token by itself."""


def scaled_tokens(scores: pd.DataFrame) -> str:
    """Compare, in a sentence, the scores of the cells that scale each token with the scores of all other cells.

    The scores are means over the seeds that all cells have. Returns "" without such seeds, and unless every cell that
    scales scores higher than all others. ``scores`` is what :func:`normplugins.report.answer.scores_on_test` returns.
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
        f"An observation made after the runs, and not a test: the {len(scaled)} cells that scale each token by itself, "
        f"LN and RMS among them, score {scaled.min():.2f} to {scaled.max():.2f} BLEU, and the {len(alone)} other cells "
        f"score {alone.min():.2f} to {alone.max():.2f} (means of {seed_numbers(common.index)}, which all cells have)."
    )
