"""95 % intervals of scores: over seeds, and over the sentences of one run's test set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from normplugins.evaluation import significance
from normplugins.evaluation.student import student_quantile
from normplugins.runs.scored_runs import read_translations

RESAMPLES = 1000
PROBABILITY = 1 - significance.LEVEL / 2
"""Of the upper bound of an interval."""


def mean_interval(scores: Sequence[float]) -> float:
    """Return the half width of the interval of a mean over seeds (N, at least 2)."""
    return student_quantile(PROBABILITY, len(scores) - 1) * float(np.std(scores, ddof=1)) / len(scores) ** 0.5


def resampled_bleu(path: Path) -> np.ndarray:
    """Return the BLEU (1000,) of test sets whose sentences are drawn with replacement from a published translation.

    Args:
        path: a file that :func:`normplugins.evaluation.bleu.write_translations` wrote.

    Raises:
        UserError: the file cannot be read.
    """
    statistics, _ = read_translations(path)
    return significance.resample([statistics], significance.bleu, RESAMPLES)[0].resamples


def middle(values: np.ndarray) -> tuple[float, float]:
    """Return the bounds between which the middle 95 % of resampled values lie."""
    low, high = np.quantile(values, [1 - PROBABILITY, PROBABILITY])
    return float(low), float(high)
