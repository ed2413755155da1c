"""The final scores: their intervals follow from seeds or from sentences, and the title says from which."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from normplugins.report import style
from normplugins.report.contrasts import Contrast, find
from normplugins.report.records import read_results
from normplugins.report.scores_figure import final_scores
from normplugins.utils.errors import UserError
from tests.helpers.pictures import assert_legible, clipped, written
from tests.helpers.records import language_model, put, put_translated, record


def drawn(results: Path) -> tuple[Figure, str]:
    """The figure of the published runs, and its texts."""
    figure = final_scores(read_results(results), "runs", results)
    assert figure is not None
    return figure, written(figure)


def test_one_seed_has_hollow_markers_and_intervals_over_sentences(tmp_path: Path) -> None:
    for norm, wrong in (("ln", 10), ("pn", 20), ("pn,norm.group_scaling=false", 5)):
        put_translated(tmp_path, norm, 1, {3: wrong}, experiment="demo")
    figure, texts = drawn(tmp_path)
    assert "one seed: 95 % intervals over sentences only" in texts
    assert "seeds or more" not in texts
    assert "pn group_scaling=false" in texts
    assert "BLEU, linear" in texts
    assert {line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_marker() == "o"} == {"white"}
    assert_legible(figure)


def test_differences_to_ln_are_those_of_the_contrasts(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        put_translated(tmp_path, "bn", seed, {3: 60 - 9 * seed})
    for seed in (1, 2):
        put_translated(tmp_path, "ln", seed, {1: 60 - 5 * seed})
    put_translated(tmp_path, "rms,norm.groups=4", 1, {2: 30})
    figure, texts = drawn(tmp_path)
    contrasts = {each.contrast.name: each for each in find(tmp_path)}
    bn_bar, bn, rms_bar, rms = (line for line in figure.axes[1].lines if line.get_color() != style.GREY)
    for bar, dot, name in ((bn_bar, bn, "BN - LN"), (rms_bar, rms, "RMS in groups - LN")):
        found = contrasts[name]
        assert list(dot.get_xdata()) == [pytest.approx(found.difference.mean)]
        assert tuple(bar.get_xdata()) == pytest.approx(found.difference.interval)
    assert bn.get_markerfacecolor() == style.color("bn")
    assert rms.get_markerfacecolor() == "white"
    assert bn_bar.get_linewidth() > rms_bar.get_linewidth()
    assert "minus ln with the same other settings, with the same seeds" in texts
    assert_legible(figure)


def test_a_difference_uses_the_seeds_of_its_rows(tmp_path: Path) -> None:
    for seed, wrong in ((1, 10), (2, 12), (3, 14), (4, 60)):
        put_translated(tmp_path, "ln", seed, {3: 5 + seed})
        put_translated(tmp_path, "pn", seed, {3: wrong})
    rows = read_results(tmp_path)
    figure = final_scores(rows[rows["seed"] < 4], "runs", tmp_path)
    assert figure is not None
    (dot,) = (line for line in figure.axes[1].lines if line.get_marker() == "o")
    (found,) = find(tmp_path, contrasts=[Contrast("pn", "ln")])
    assert list(dot.get_xdata()) == [pytest.approx(np.mean(found.difference.by_seed[:3]))]


def test_a_plan_that_varies_another_setting_compares_each_norm_with_itself(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        for cell, wrong in (("ln", 9), ("ln,precision=bf16", 12), ("pn", 3), ("pn,precision=bf16", 5)):
            put_translated(tmp_path, cell, seed, {3: wrong * seed})
    figure, texts = drawn(tmp_path)
    assert "minus the same norm with the usual setting, with the same seeds" in texts
    pairs = [Contrast(f"{norm},precision=bf16", norm) for norm in ("ln", "pn")]
    expected = [each.difference.mean for each in find(tmp_path, contrasts=pairs)]
    dots = [line for line in figure.axes[1].lines if line.get_marker() == "o"]
    assert [float(dot.get_xdata()[0]) for dot in dots] == pytest.approx(expected)


def test_a_setting_of_all_cells_is_named_once(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        for cell in ("ln,norm.eps=0.1,optimization.max_epoch=8", "pn,optimization.max_epoch=8"):
            put_translated(tmp_path, cell, seed, {3: 9 * seed})
    assert drawn(tmp_path)[1].count("max_epoch=8") == 1


def test_several_seeds_have_intervals_over_seeds(tmp_path: Path) -> None:
    for norm, ppls in (("ln", (50.0, 51.0, 52.0)), ("pn", (20.0, 20.1, 20.2)), ("bn", (400.0, 390.0, 410.0))):
        for seed, ppl in enumerate(ppls, 1):
            put(tmp_path, language_model("ptb", norm, seed, ppl))
    figure, texts = drawn(tmp_path)
    assert "━●━ from 3 seeds on: 95 % intervals over seeds" in texts
    assert "perplexity, log" in texts
    assert "lower is better" in texts
    assert clipped(figure) == []
    bars = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert len(bars) == 3
    assert np.mean(bars[0]) == pytest.approx(51)
    assert np.ptp(bars[0]) == pytest.approx(2 * 4.303 / 3**0.5, abs=2e-3), "Student's t with 2 degrees of freedom"


def test_a_cell_with_another_test_set_is_drawn_and_not_compared(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        put_translated(tmp_path, "ln", seed, {1: seed})
        put_translated(tmp_path, "pn", seed, {1: 5 * seed})
        corpus = record()["corpus"] | {"sha256": {"tokenized/reference.text.en": "1"}}
        put_translated(tmp_path, "bn", seed, {1: 9 * seed}, corpus=corpus)
    figure, texts = drawn(tmp_path)
    assert "not compared, because test sets or signatures differ: bn" in texts
    assert [sum(line.get_marker() == "o" for line in axis.lines) for axis in figure.axes] == [3, 1]


def test_scores_without_any_interval_are_not_drawn(tmp_path: Path) -> None:
    put(tmp_path, record("demo", "ln"))
    put(tmp_path, record("demo", "pn"))
    assert final_scores(read_results(tmp_path), "runs", tmp_path) is None


def test_broken_translations_are_named(tmp_path: Path) -> None:
    path = put_translated(tmp_path, "ln", 1, {3: 10}).with_name("seed1.averaged.tsv.gz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"seed1\.averaged\.tsv\.gz"):
        final_scores(read_results(tmp_path), "runs", tmp_path)
