"""The statistics of a comparison: properties, sacreBLEU's own numbers, and the coverage of the interval."""

import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.significance import PairedTest

from normplugins.evaluation import significance
from normplugins.evaluation.student import student_cdf, student_quantile

WORDS = list("abcdefghijklmno")


def texts(seed: int, count: int = 60) -> tuple[list[str], list[str], list[str]]:
    """References, and two translations of them with a different share of wrong words."""
    rng = np.random.default_rng(seed)
    references = [list(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(count)]
    sides = [
        [" ".join(w if rng.random() > wrong else str(rng.choice(WORDS)) for w in line) for line in references]
        for wrong in (0.2, 0.3)
    ]
    return [" ".join(line) for line in references], sides[0], sides[1]


def statistics(lines: list[str], references: list[str]) -> np.ndarray:
    metric = sacrebleu.metrics.BLEU(tokenize="none", force=True, effective_order=True)
    scores = [metric.sentence_score(line, [reference]) for line, reference in zip(lines, references, strict=True)]
    return np.array([[each.sys_len, each.ref_len, *each.counts, *each.totals] for each in scores], dtype=float)


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    references, first, second = texts(seed)
    return statistics(first, references), statistics(second, references)


def difference(system, baseline, score, sentences=True, resamples=significance.RESAMPLES):
    drawn = iter(significance.resample([*system.values(), *baseline.values()], score, resamples))
    first, second = (dict(zip(side, drawn, strict=False)) for side in (system, baseline))
    return significance.paired_difference(first, second, sentences)


@pytest.fixture(scope="module")
def sides() -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    pairs = {seed: pair(seed) for seed in (1, 2, 3)}
    return {seed: each[0] for seed, each in pairs.items()}, {seed: each[1] for seed, each in pairs.items()}


@pytest.mark.parametrize("count", [1, 2, 60])
def test_bleu_is_sacrebleus(count: int) -> None:
    references, first, _ = texts(5, count)
    rows = statistics(first, references)
    corpus = sacrebleu.metrics.BLEU(tokenize="none", force=True).corpus_score(first, [references]).score
    assert significance.bleu(rows.sum(axis=0)) == pytest.approx(corpus, abs=1e-9)
    metric = sacrebleu.metrics.BLEU(tokenize="none", force=True, effective_order=True)
    each = [metric.sentence_score(a, [b]).score for a, b in zip(first, references, strict=True)]
    assert significance.bleu(rows, effective_order=True) == pytest.approx(each, abs=1e-9)


def test_bleu_of_an_empty_translation_is_zero() -> None:
    assert significance.bleu(np.array([0, 5, *[0] * 8], dtype=float)) == 0


def test_the_mean_is_the_difference_of_corpus_scores(sides) -> None:
    found = difference(sides[0], sides[1], significance.bleu, resamples=200)
    wanted = [
        significance.bleu(sides[0][s].sum(axis=0)) - significance.bleu(sides[1][s].sum(axis=0)) for s in (1, 2, 3)
    ]
    assert found.by_seed == pytest.approx(wanted)
    assert found.mean == pytest.approx(np.mean(wanted))
    assert found.low < found.mean < found.high


def test_swapped_sides_negate_everything(sides) -> None:
    there = difference(sides[0], sides[1], significance.bleu, resamples=200)
    back = difference(sides[1], sides[0], significance.bleu, resamples=200)
    assert back.mean == -there.mean
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert back.bootstrap == pytest.approx((-there.bootstrap[1], -there.bootstrap[0]))
    assert back.p == pytest.approx(there.p)


def test_a_system_does_not_differ_from_itself(sides) -> None:
    found = difference(sides[0], sides[0], significance.bleu, resamples=100)
    assert (found.mean, found.low, found.high, *found.bootstrap, found.p) == (0, 0, 0, 0, 0, 1)


def test_the_bootstrap_of_one_seed_is_that_of_its_sentences() -> None:
    """The mean of many sentences is normally distributed: its 95 % interval is ± 1.96 standard errors."""
    gains = np.random.default_rng(1).normal(0.2, 1, 400)
    system, baseline = (np.column_stack([each, np.ones(400)]) for each in (gains, np.zeros(400)))
    found = difference({1: system}, {1: baseline}, significance.nats, resamples=4000)
    for bound in found.bootstrap:
        assert abs(bound - found.mean) == pytest.approx(1.96 * gains.std() / 20, rel=0.1)


def test_the_bootstrap_draws_seeds() -> None:
    system = {seed: np.column_stack([np.full(10, 1.0 * sign), np.ones(10)]) for seed, sign in ((1, 1), (2, -1))}
    baseline = {seed: np.column_stack([np.zeros(10), np.ones(10)]) for seed in system}
    found = difference(system, baseline, significance.nats, resamples=200)
    assert (found.mean, found.bootstrap) == (0, (-1, 1))


@settings(deadline=None)
@given(st.floats(-20, 20))
def test_the_p_value_is_below_five_percent_if_the_interval_excludes_zero(mean: float) -> None:
    rows = {seed: np.column_stack([np.arange(6.0) * seed, np.ones(6)]) for seed in (1, 2, 4)}
    zero = {seed: np.column_stack([np.zeros(6), np.ones(6)]) for seed in rows}
    found = difference(rows, zero, significance.nats, resamples=50)
    moved = found.shifted([mean] * 3)
    assert (moved.p < 0.05) == (not moved.low <= 0 <= moved.high)


def test_one_seed_gives_no_interval_over_seeds_and_no_verdict(sides) -> None:
    found = difference({1: sides[0][1], 4: sides[0][2]}, sides[1], significance.bleu, resamples=100)
    assert found.seeds == (1,)
    assert all(map(math.isnan, (found.low, found.high, found.p)))
    assert significance.verdict(found, found.p, 0.4) == "one seed: no verdict"
    with pytest.raises(ValueError, match="one seed"):
        significance.seeds_needed(found, 0.4)
    with pytest.raises(ValueError, match="no seed"):
        difference({4: sides[0][1]}, sides[1], significance.bleu)


def test_the_interval_covers_the_truth() -> None:
    """Scores of seeds and sentences with known effects: the 95 % interval must hold the true difference."""
    rng, truth, held = np.random.default_rng(3), 0.3, 0
    for _ in range(150):
        common = rng.normal(0, 1, 40)
        ones, zero = np.ones(40), np.zeros(40)
        system = {
            seed: np.stack([truth + rng.normal(0, 0.1) + common + rng.normal(0, 0.5, 40), ones], axis=1)
            for seed in range(4)
        }
        baseline = {seed: np.stack([zero, ones], axis=1) for seed in system}
        found = difference(system, baseline, significance.nats, resamples=200)
        held += found.low < truth < found.high
    assert held >= 0.93 * 150  # 1.2 standard deviations of the count below 95 %; the interval is conservative


@pytest.mark.slow
def test_sacrebleus_tests_give_the_p_values_that_sacrebleu_gives_from_text() -> None:
    references, first, second = texts(1)
    rows = statistics(first, references), statistics(second, references)
    found = significance.sacrebleu_tests(*rows)
    for key, test in (("paired_bootstrap", "bs"), ("approximate_randomization", "ar")):
        metric = {"BLEU": sacrebleu.metrics.BLEU(tokenize="none", force=True)}
        _, scores = PairedTest([("a", second), ("b", first)], metric, [references], test_type=test)()
        assert found[key] == pytest.approx(scores["BLEU"][1].p_value)


def test_randomization_of_segments() -> None:
    logprobs = np.random.default_rng(0).normal(-3, 1, 205).astype(np.float32)
    rows = significance.segments(logprobs, 10, 100)
    assert rows.shape == (21, 2)
    assert significance.nats(rows.sum(axis=0)) == pytest.approx(-logprobs.sum() / 100, rel=1e-5)
    worse = significance.segments(logprobs - 0.1, 10, 100)
    assert significance.randomization(worse, rows, significance.nats) < 0.01
    assert significance.randomization(rows, rows, significance.nats) == 1


@pytest.mark.parametrize("gain", [1, -1])
def test_randomization_has_two_sides(gain: int) -> None:
    """Of the 8 ways to swap three equal differences, two are as extreme as the observed one."""
    system, baseline = np.column_stack([np.full(3, gain), np.ones(3)]), np.column_stack([np.zeros(3), np.ones(3)])
    assert significance.randomization(system, baseline, significance.nats) == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (8, 2.3060), (30, 2.0423)])
def test_students_distribution(freedom: int, quantile: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(quantile, abs=1e-4)
    assert student_cdf(-quantile, freedom) == pytest.approx(0.025, abs=1e-5)


def test_sacrebleus_tests_of_equal_systems(sides) -> None:
    assert set(significance.sacrebleu_tests(sides[0][1], sides[0][1]).values()) == {1}


def test_holm() -> None:
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert significance.holm([math.nan, 0.04]) == pytest.approx([math.nan, 0.08], nan_ok=True)


def known(mean: float, seed_variance: float, sentence_variance: float, reach: float) -> significance.Difference:
    seeds = (1, 2, 3)
    interval = (mean - reach, mean + reach)
    return significance.Difference(
        mean, *interval, 0.01, seeds, (mean,) * 3, seed_variance, sentence_variance, 0.0, interval
    )


@pytest.mark.parametrize(
    ("mean", "reach", "p", "lower", "diverged", "said"),
    [
        (0.6, 0.5, 0.01, False, (0, 0), "better"),
        (0.6, 0.5, 0.01, True, (0, 0), "worse"),
        (-0.2, 0.1, 0.01, False, (0, 0), "worse, equivalent"),
        (0.1, 0.2, 0.2, False, (0, 0), "equivalent"),
        (0.1, 0.5, 0.2, False, (0, 0), "undecided"),
        (0.6, 0.5, 0.01, False, (1, 0), "undecided"),
        (0.6, 0.5, 0.01, False, (0, 1), "better"),
        (-0.6, 0.5, 0.01, False, (0, 1), "undecided"),
    ],
)
def test_verdicts(mean: float, reach: float, p: float, lower: bool, diverged: tuple[int, int], said: str) -> None:
    assert significance.verdict(known(mean, 0.01, 0.0, reach), p, 0.4, lower, diverged) == said


@pytest.mark.parametrize("seed_variance", [0.01, 0.03, 0.1])
def test_seeds_needed(seed_variance: float) -> None:
    """One seed has three times the variance of the mean of three seeds."""

    def detects(n: int) -> bool:
        quantiles = sum(student_quantile(p, n - 1) for p in (0.975, 0.8))
        return bool(quantiles * np.sqrt(3 * seed_variance / n + 0.001) <= 0.4)

    needed = significance.seeds_needed(known(0.1, seed_variance, 0.001, 0.5), 0.4)
    assert needed is not None
    assert [detects(n) for n in (needed - 1, needed)] == [False, True]
    assert significance.seeds_needed(known(0.1, 0.01, 0.04, 0.5), 0.4) is None


def test_seeds_that_agree_by_chance_have_the_variance_of_their_own_sentences() -> None:
    """Both seeds gain one nat in all, but on other sentences; a resample draws them apart."""
    baseline = np.column_stack([np.full(100, 5.0), np.full(100, 2.0)])
    first, second = baseline.copy(), baseline.copy()
    first[:50, 0] -= 0.02
    second[50:, 0] -= 0.02
    found = difference({1: first, 2: second}, {1: baseline, 2: baseline}, significance.nats)
    assert found.by_seed[0] == pytest.approx(found.by_seed[1])
    assert found.seed_variance > 0
    assert found.low < found.mean < found.high
    assert difference({1: first, 2: second}, {1: baseline, 2: baseline}, significance.nats, False).low == (
        pytest.approx(found.mean)
    )


@pytest.mark.parametrize("shift", [0.0, -2.5])
def test_a_constant_for_every_seed_moves_the_interval(sides, shift: float) -> None:
    found = difference(sides[0], sides[1], significance.bleu, resamples=200)
    moved = found.shifted([shift] * 3)
    assert moved.by_seed == pytest.approx([each + shift for each in found.by_seed])
    assert (moved.mean, moved.low, moved.high) == pytest.approx(
        [each + shift for each in (found.mean, *found.interval)]
    )
    assert moved.bootstrap == pytest.approx([each + shift for each in found.bootstrap])
    assert moved.seed_variance == pytest.approx(found.seed_variance)
    assert (moved.p < found.p) == (abs(moved.mean) > abs(found.mean))


def test_a_constant_for_one_seed_changes_the_variance_between_seeds(sides) -> None:
    found = difference(sides[0], sides[1], significance.bleu, resamples=200)
    moved = found.shifted([9.0, 0.0, 0.0])
    assert moved.mean == pytest.approx(found.mean + 3)
    assert moved.seed_variance == pytest.approx(np.var(moved.by_seed, ddof=1) / 3)
    assert moved.sentence_variance == found.sentence_variance
