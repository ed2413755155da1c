"""Plans that vary one setting: their cells are found by the plan, and the verdicts follow from the records."""

from pathlib import Path

import pandas as pd

from normplugins.report.evidence import Evidence
from normplugins.report.plans import Plan
from normplugins.report.records import read_results
from normplugins.report.sweeps import batch_sizes, learning_rates, one_sentence, small_batches, weight_decay
from tests.helpers.pictures import assert_legible, written
from tests.helpers.records import put, put_diverged, put_translated, record, scored

SMALL = "dataset.max_tokens=512,lr_scheduler.warmup_updates=4000"
BASE = {"config": {"dataset.max_tokens": 2048, "evaluate.average": 5}}


def evidence(results: Path) -> Evidence:
    return Evidence(results, {}, pd.DataFrame(), read_results(results))


def put_seeds(results: Path, cell: str, *wrong: int) -> None:
    """Write runs with the seeds 1, 2, ... and these numbers of wrong sentences."""
    for seed, count in enumerate(wrong, 1):
        put_translated(results, cell, seed, {1: count}, **BASE)


def put_pair(results: Path, settings: str, wrong: int, seeds: int = 3) -> None:
    """LN with few wrong sentences, and BN as released with so many more."""
    end = f",{settings}" if settings else ""
    put_seeds(results, f"ln{end}", *range(1, seeds + 1))
    put_seeds(results, f"bn_released{end}", *range(wrong + 1, wrong + seeds + 1))


def test_bn_fails_at_small_batches_if_it_is_worse_there_than_elsewhere(tmp_path: Path) -> None:
    put_pair(tmp_path, SMALL, 40)
    assert small_batches(evidence(tmp_path))[0] == "not run"
    put_pair(tmp_path, "", 4)
    verdict, said = small_batches(evidence(tmp_path))
    assert verdict == "holds so far", "the plan has more sizes"
    assert "512 tokens: -" in said
    assert "worse and not equivalent at the smallest size" in said
    assert "2,048 tokens: -" in said
    assert f"runs/multi30k/bn_released,{SMALL}/seed3.md" in said


def test_bn_that_is_as_much_worse_at_large_batches_decides_nothing(tmp_path: Path) -> None:
    put_pair(tmp_path, SMALL, 40)
    put_pair(tmp_path, "", 40)
    assert small_batches(evidence(tmp_path))[0] == "undecided so far"


def test_one_seed_does_not_decide_about_small_batches(tmp_path: Path) -> None:
    put_pair(tmp_path, SMALL, 40, seeds=1)
    put_pair(tmp_path, "", 4, seeds=1)
    assert small_batches(evidence(tmp_path))[0] == "undecided so far"


def test_bn_that_is_not_worse_at_small_batches_does_not_fail(tmp_path: Path) -> None:
    put_pair(tmp_path, SMALL, 0)
    put_pair(tmp_path, "", 4)
    assert small_batches(evidence(tmp_path))[0] == "does not hold so far"


def test_the_figure_of_batch_sizes_needs_two_sizes_of_a_norm(tmp_path: Path) -> None:
    put_pair(tmp_path, "", 4)
    assert batch_sizes(read_results(tmp_path)) is None
    put_pair(tmp_path, SMALL, 40)
    put_diverged(tmp_path, "multi30k", f"pnv,{SMALL}", 1)
    figure = batch_sizes(read_results(tmp_path))
    assert figure is not None
    texts = written(figure)
    for text in ("512", "2,048", "ln", "bn_released", "runs that diverged and are not shown: 1"):
        assert text in texts
    assert_legible(figure)


def test_runs_that_diverged_at_the_smallest_batch_count_as_worse(tmp_path: Path) -> None:
    put_pair(tmp_path, "", 4)
    put_seeds(tmp_path, f"ln,{SMALL}", 1, 2, 3)
    for seed in (1, 2, 3):
        put_diverged(tmp_path, "multi30k", f"bn_released,{SMALL}", seed)
    verdict, said = small_batches(evidence(tmp_path))
    assert verdict == "holds so far"
    assert "512 tokens: diverged: 3 and 0" in said


def test_bn_fails_at_one_sentence_if_both_forms_of_it_are_worse(tmp_path: Path) -> None:
    cells = {cell.partition(",")[0]: cell for _, cell in Plan.named("one_sentence").cells}
    put_seeds(tmp_path, cells["ln"], 1, 2, 3)
    put_seeds(tmp_path, cells["bn"], 41, 42, 43)
    assert one_sentence(evidence(tmp_path))[0] == "not run"
    put_seeds(tmp_path, cells["bn_released"], 31, 32, 33)
    verdict, said = one_sentence(evidence(tmp_path))
    assert verdict == "holds so far", "the plan has other norms"
    assert "pn - ln: not run" in said
    put_seeds(tmp_path, cells["bn_released"], 1, 2, 3)
    assert one_sentence(evidence(tmp_path))[0] == "does not hold so far"


def test_weight_decay_is_compared_with_a_control_of_a_matched_rate(tmp_path: Path) -> None:
    assert weight_decay(evidence(tmp_path))[0] == "not run"
    put_seeds(tmp_path, "ln,optimizer.weight_decay=0.05", 1, 1, 1)
    put_seeds(tmp_path, "ln,optimization.lr=0.0075", 1, 1, 1)
    verdict, said = weight_decay(evidence(tmp_path))
    assert verdict == "undecided so far", "whether weight decay has an effect is not known"
    assert "minus the unchanged recipe, `ln`: not run" in said
    put_seeds(tmp_path, "ln", 1, 1, 1)
    assert weight_decay(evidence(tmp_path))[0] == "undecided", "weight decay has no effect"
    put_seeds(tmp_path, "ln", 59, 58, 57)
    assert weight_decay(evidence(tmp_path))[0] == "holds"
    put_seeds(tmp_path, "ln,optimizer.weight_decay=0.05", 30, 31, 32)
    assert weight_decay(evidence(tmp_path))[0] == "open", "the control only matches the mean of the rate"


def put_rates(results: Path, norm: str, scores: dict[str, float | None], seeds: int = 3) -> None:
    for rate, bleu in scores.items():
        cell = norm + (f",optimization.lr={rate}" if rate != "0.005" else "") + ",optimization.max_epoch=8"
        for seed in range(1, seeds + 1):
            if bleu is None:
                put_diverged(results, "multi30k", cell, seed)
                continue
            content = scored(record("multi30k", cell, seed, {"bleu": bleu}), {})
            content["config"]["optimization.lr"] = [float(rate)]
            put(results, content)


def test_a_norm_allows_a_larger_rate_if_its_largest_one_is_larger(tmp_path: Path) -> None:
    put_rates(tmp_path, "ln", {"0.005": 35.0, "0.01": 34.0, "0.02": 3.0})
    assert learning_rates(evidence(tmp_path))[0] == "not run"
    put_rates(tmp_path, "none", {"0.005": 33.0, "0.01": None, "0.02": None})
    verdict, said = learning_rates(evidence(tmp_path))
    assert verdict == "holds so far", "the plan has a larger rate, too"
    assert "none: 0.005 (BLEU 33.00), 0.01 (3 diverged)" in said
    assert "largest rate that works: 0.01. none" in said


def test_rates_that_both_work_or_single_seeds_decide_nothing(tmp_path: Path) -> None:
    for norm in ("ln", "none"):
        put_rates(tmp_path, norm, {"0.005": 35.0, "0.01": 34.0})
    assert learning_rates(evidence(tmp_path))[0] == "undecided so far"
    put_rates(tmp_path, "ln", {"0.02": 34.0}, seeds=1)
    put_rates(tmp_path, "none", {"0.02": None}, seeds=1)
    assert learning_rates(evidence(tmp_path))[0] == "undecided so far"


def test_without_a_norm_the_rate_can_be_as_large(tmp_path: Path) -> None:
    for norm in ("ln", "none"):
        put_rates(tmp_path, norm, {"0.005": 35.0, "0.01": 34.0, "0.02": 30.0, "0.04": 1.0})
    assert learning_rates(evidence(tmp_path))[0] == "does not hold"
