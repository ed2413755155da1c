"""Differences between two systems over seeds and sentences, by the rule in ``docs/protocol.md`` ("Analysis").

A run is represented by the sufficient statistics of its test set: an array (N, C) with a row for each sentence or
segment. The score of any set of sentences is a function of the sum of their rows, so scoring resamples takes one matrix
product.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from normplugins.evaluation.student import student_cdf, student_quantile

Array = NDArray[np.float64]
Score = Callable[[Array], Array]
"""Maps sums of sufficient statistics (..., C) to scores (...)."""
LEVEL, POWER = 0.05, 0.8
RESAMPLES, SEED = 10_000, 12345
_CHUNK = 250  # resamples in one matrix product; bounds the memory


@dataclass(frozen=True)
class Resampled:
    """A run's score on the whole test set, and on resamples (resamples,) of its sentences or segments."""

    score: float
    resamples: Array


@dataclass(frozen=True)
class Difference:
    """The score of a system minus the score of a baseline.

    Attributes:
        mean: the mean of ``by_seed``.
        low, high: the 95 % interval by Student's t distribution; NaN with one seed.
        p: the two-sided p-value by the same distribution, not adjusted; NaN with one seed.
        seeds: the seeds that both sides have.
        by_seed: the difference of the two corpus scores of each seed.
        seed_variance: s² / n, NaN with one seed. s² is the variance between seeds. It includes the part of the variance
            between sentences that is specific to a seed, and is at least this part: few seeds can agree by chance.
        sentence_variance: the part of the variance between sentences that is common to all seeds, NaN with one seed.
        own_variance: the part of the variance between sentences that is specific to a seed, NaN with one seed.
        bootstrap: the 95 % percentile interval of the hierarchical bootstrap. With few seeds it is too narrow, and no
            verdict uses it. With one seed it is the interval over sentences alone.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: tuple[int, ...]
    by_seed: tuple[float, ...]
    seed_variance: float
    sentence_variance: float
    own_variance: float
    bootstrap: tuple[float, float]

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval over seeds and sentences; with one seed, over sentences alone."""
        return self.bootstrap if len(self.seeds) == 1 else (self.low, self.high)

    def shifted(self, by: Sequence[float]) -> Difference:
        """Return the difference with a constant added to that of each seed."""
        by_seed = np.array(self.by_seed) + by
        low, high = self.bootstrap
        moved = float(by_seed.mean()) - self.mean
        numbers = _student(by_seed, self.sentence_variance, self.own_variance)
        return replace(self, by_seed=tuple(by_seed.tolist()), bootstrap=(low + moved, high + moved), **numbers)


def resample(runs: Sequence[Array], score: Score, resamples: int = RESAMPLES) -> list[Resampled]:
    """Score each run, given by its statistics (N, C), on bootstrap resamples of the sentences.

    All runs get the same resamples, and so do all calls with the same number of sentences. Raises ValueError if the
    arrays differ in shape.
    """
    if not runs:
        return []
    rng, size = np.random.default_rng(SEED), len(runs[0])
    stacked = np.stack(runs, axis=1).astype(np.float64)  # (N, runs, C)
    found = []
    for begin in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - begin)
        drawn = rng.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)
        found.append(score((weights @ stacked.reshape(size, -1)).reshape(rows, *stacked.shape[1:])))
    scores, resampled = score(stacked.sum(axis=0)), np.concatenate(found)
    return [Resampled(float(scores[index]), resampled[:, index]) for index in range(len(runs))]


def paired_difference(
    system: Mapping[int, Resampled], baseline: Mapping[int, Resampled], sentences: bool = True
) -> Difference:
    """Return the difference of two systems, whose runs are paired by seed. Raises ValueError without a common seed.

    Both sides map seeds to scores from one call of :func:`resample`. ``sentences`` says whether the variance between
    sentences is part of the interval and the p-value; the protocol leaves it out for language models.
    """
    seeds = sorted(system.keys() & baseline.keys())
    if not seeds:
        raise ValueError("no seed is common to both sides")
    n = len(seeds)
    by_seed = np.array([system[key].score - baseline[key].score for key in seeds])
    resampled = np.stack([system[key].resamples - baseline[key].resamples for key in seeds], axis=1)
    drawn = np.random.default_rng([SEED, n]).integers(n, size=resampled.shape)
    hierarchical = np.take_along_axis(resampled, drawn, axis=1).mean(axis=1)
    # Symmetric quantiles: with them, swapping the sides negates the interval exactly.
    ordered, cut = np.sort(hierarchical), int(len(hierarchical) * LEVEL / 2)
    bootstrap = float(ordered[cut]), float(ordered[len(ordered) - 1 - cut])
    common = own = math.nan
    if n > 1:
        common, own = _variances(resampled) if sentences else (0.0, 0.0)
    return Difference(
        **_student(by_seed, common, own), seeds=tuple(seeds), by_seed=tuple(by_seed.tolist()),
        sentence_variance=common, own_variance=own, bootstrap=bootstrap,
    )  # fmt: skip


class _Student(TypedDict):
    """The fields of a :class:`Difference` that follow from Student's t distribution."""

    mean: float
    low: float
    high: float
    p: float
    seed_variance: float


def _student(by_seed: Array, sentence_variance: float, own_variance: float) -> _Student:
    n, mean = len(by_seed), float(by_seed.mean())
    if n == 1:
        return {"mean": mean, "low": math.nan, "high": math.nan, "p": math.nan, "seed_variance": math.nan}
    seed_variance = max(float(by_seed.var(ddof=1)), own_variance) / n
    error = math.sqrt(seed_variance + sentence_variance)
    reach = student_quantile(1 - LEVEL / 2, n - 1) * error
    p = 2 * (1 - student_cdf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "p": p, "seed_variance": seed_variance}


def _variances(resampled: Array) -> tuple[float, float]:
    """Split the variance between sentences into a part common to all seeds and a part specific to a seed.

    The first is the mean covariance over the pairs of different seeds, or 0 if it is negative. The second is the mean
    variance of a seed minus the first, or 0 if that is negative.
    """
    covariance = np.cov(resampled, rowvar=False)
    n, each = len(covariance), float(np.trace(covariance))
    common = max(0.0, (float(covariance.sum()) - each) / (n * (n - 1)))
    return common, max(0.0, each / n - common)


def bleu(sums: Array, effective_order: bool = False) -> Array:
    """Return BLEU from sums of statistics (..., 10), as sacreBLEU computes it with exponential smoothing.

    Args:
        sums: length of hypothesis and reference, matches of 1- to 4-grams, and their totals.
        effective_order: ignore n-gram orders for which a hypothesis is too short, as for single sentences.
    """
    length, reference, matches, totals = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:10]
    smoothed = 2.0 ** -np.cumsum((matches == 0) & (totals > 0), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.where(matches > 0, matches, smoothed) / totals)
        penalty = np.where(length < reference, np.exp(1 - reference / length), 1.0)
    orders = np.maximum((totals > 0).sum(axis=-1), 1) if effective_order else 4
    logs = np.where(totals > 0, logs, 0.0 if effective_order else -np.inf)
    return np.where(matches.any(axis=-1), 100 * penalty * np.exp(logs.sum(axis=-1) / orders), 0.0)


def nats(sums: Array) -> Array:
    """Return nats per word, the logarithm of the perplexity, from sums of (minus log-probability, words) (..., 2)."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def segments(logprobs: NDArray[np.float32], length: int, words: int) -> Array:
    """Return the statistics (N, 2) of a text's segments of ``length`` tokens, for :func:`nats`.

    ``logprobs`` has the natural log-probability of each token; the last segment may be shorter. ``words`` is the number
    of words that the perplexity is computed over, which differs from the number of tokens for subwords.
    """
    begins = np.arange(0, len(logprobs), length)
    counts = np.diff([*begins, len(logprobs)])
    return np.stack([-np.add.reduceat(logprobs.astype(np.float64), begins), counts * (words / len(logprobs))], axis=1)


def randomization(system: Array, baseline: Array, score: Score) -> float:
    """Return the two-sided p-value of approximate randomization: each row of (N, C) swaps sides at random."""
    rng, pairs = np.random.default_rng(SEED), np.stack([system, baseline])
    observed, extreme, both = abs(float(np.diff(score(pairs.sum(axis=1)))[0])), 0, pairs.sum(axis=(0, 1))
    for begin in range(0, RESAMPLES, _CHUNK):
        chosen = rng.integers(2, size=(min(_CHUNK, RESAMPLES - begin), len(system)))
        first = chosen @ (system - baseline) + baseline.sum(axis=0)
        extreme += int((np.abs(score(first) - score(both - first)) >= observed - 1e-12).sum())
    return (extreme + 1) / (RESAMPLES + 1)


class _StoredBLEU(BLEU):
    """BLEU of "hypotheses" that are rows of sufficient statistics; lets sacreBLEU's tests run without references."""

    def _extract_corpus_statistics(self, hypotheses, references):  # type: ignore[no-untyped-def]  # noqa: ARG002
        return [list(row) for row in hypotheses]


def sacrebleu_tests(system: Array, baseline: Array) -> dict[str, float]:
    """Return the p-values of sacreBLEU's paired bootstrap and approximate randomization for BLEU statistics (N, 10).

    Equal systems have p = 1. sacreBLEU, which counts only larger differences, would give them its smallest p-value.
    """
    if np.array_equal(system, baseline):
        return {"paired_bootstrap": 1.0, "approximate_randomization": 1.0}
    found = {}
    for key, test in (("paired_bootstrap", "bs"), ("approximate_randomization", "ar")):
        named = [(name, rows.astype(int).tolist()) for name, rows in (("baseline", baseline), ("system", system))]
        metric = _StoredBLEU(tokenize="none", force=True)
        metric.num_refs = 1
        _, scores = PairedTest(named, {"BLEU": metric}, None, test_type=test)()
        found[key] = float(scores["BLEU"][1].p_value)  # type: ignore[union-attr,arg-type]
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm's method; a NaN stays NaN and counts as p = 1."""
    order = sorted((1.0 if math.isnan(p) else p, index) for index, p in enumerate(p_values))
    adjusted, most = list(p_values), 0.0
    for rank, (p, index) in enumerate(order):
        most = max(most, min(1.0, (len(order) - rank) * p))
        adjusted[index] = p_values[index] if math.isnan(p_values[index]) else most
    return adjusted


def verdict(
    found: Difference,
    p_adjusted: float,
    margin: float | None,
    lower_is_better: bool = False,
    diverged: tuple[int, int] = (0, 0),
) -> str:
    """Return the protocol's verdict on a difference, such as ``better``, ``worse, equivalent`` or ``undecided``.

    Args:
        found: the difference.
        p_adjusted: its p-value, adjusted by Holm's method.
        margin: the systems are equivalent if the 95 % interval lies within ± this; None if there is no margin.
        lower_is_better: whether a lower score is better.
        diverged: the number of runs that diverged, of the system and of the baseline. The side with more of them is
            never called better.
    """
    if len(found.seeds) < 2:
        return "one seed: no verdict"
    parts = []
    if p_adjusted < LEVEL:
        better = (found.mean > 0) != lower_is_better
        winner, loser = diverged if better else diverged[::-1]
        if winner <= loser:
            parts.append("better" if better else "worse")
    if margin is not None and -margin < found.low and found.high < margin:
        parts.append("equivalent")
    return ", ".join(parts) or "undecided"


def seeds_needed(found: Difference, effect: float) -> int | None:
    """Return the number of seeds that detects a true difference of ``effect`` with a power of 80 % at the 5 % level.

    Returns None if more than 1,000 seeds are needed, or if no number suffices because the variance between sentences is
    too large. Raises ValueError if the difference has only one seed, which shows no variance between seeds.
    """
    if len(found.seeds) < 2:
        raise ValueError("one seed does not show the variance between seeds")

    def detected(n: int) -> bool:
        error = math.sqrt(found.seed_variance * len(found.seeds) / n + found.sentence_variance)
        reach = student_quantile(1 - LEVEL / 2, n - 1) + student_quantile(POWER, n - 1)
        return reach * error <= effect

    numbers = range(2, 1001)
    index = bisect.bisect_left(numbers, True, key=detected)
    return numbers[index] if index < len(numbers) else None
