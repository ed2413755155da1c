"""95 % intervals of scores: over seeds, and over the sentences of one run's test set."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from sacrebleu.metrics import BLEU

from normplugins.utils.errors import UserError

RESAMPLES = 1000
LEVEL = 0.95


def t_quantile(freedom: int) -> float:
    """Return how many standard errors a 95 % interval reaches to either side, by Student's t distribution.

    With x = sqrt(freedom) tan(a), the density of a is proportional to cos(a) ** (freedom - 1).
    """
    angle = np.linspace(0, np.pi / 2, 200_001)
    mass = np.cumsum(np.cos(angle) ** (freedom - 1))
    return float(np.sqrt(freedom) * np.tan(angle[np.searchsorted(mass, LEVEL * mass[-1])]))


def mean_interval(scores: Sequence[float]) -> float:
    """Return the half width of the interval of a mean over seeds (N, at least 2)."""
    return t_quantile(len(scores) - 1) * float(np.std(scores, ddof=1)) / len(scores) ** 0.5


def difference_interval(scores: Sequence[float], others: Sequence[float]) -> float:
    """Return the half width of the interval of a difference of two means over seeds.

    The degrees of freedom are those of the smaller group, so the interval is rather too wide than too narrow.
    """
    variance = sum(float(np.var(group, ddof=1)) / len(group) for group in (scores, others))
    return t_quantile(min(len(scores), len(others)) - 1) * variance**0.5


def resampled_bleu(path: Path) -> np.ndarray:
    """Return the BLEU (1000,) of test sets whose sentences are drawn with replacement from a published translation.

    Two translations of the same test set are drawn alike, so that their difference is that of a paired bootstrap.

    Args:
        path: a file that :func:`normplugins.evaluation.bleu.write_translations` wrote.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            statistics = np.array([line.rstrip("\n").split("\t")[-10:] for line in lines], dtype=np.int64)
        lengths, counts, totals = np.split(_draws(len(statistics)) @ statistics, [2, 6], axis=1)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} holds no translations with their statistics ({error}): publish it again") from error
    rows = zip(counts.tolist(), totals.tolist(), lengths.tolist(), strict=True)
    bleus = [BLEU.compute_bleu(right, all_, ours, theirs, smooth_method="exp") for right, all_, (ours, theirs) in rows]
    return np.array([bleu.score for bleu in bleus])


def middle(values: np.ndarray) -> tuple[float, float]:
    """Return the bounds between which the middle 95 % of resampled values lie."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@cache
def _draws(sentences: int) -> np.ndarray:
    """Return how often each sentence is drawn, shape (resamples, sentences)."""
    generator = np.random.default_rng(1)
    return generator.multinomial(sentences, np.full(sentences, 1 / sentences), size=RESAMPLES)
