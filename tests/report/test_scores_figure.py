"""The final scores: a dot for each seed, and intervals that follow from the seeds."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from normplugins.report import style
from normplugins.report.records import read_results
from normplugins.report.scores_figure import final_scores
from tests.helpers.pictures import assert_legible, clipped, written
from tests.helpers.records import language_model, put, put_diverged, record


def drawn(results: Path) -> tuple[Figure, str]:
    """The figure of the published runs, and its texts."""
    figure = final_scores(read_results(results), "runs")
    assert figure is not None
    return figure, written(figure)


def put_scores(results: Path, cells: dict[str, tuple[float, ...]]) -> None:
    """Write a record for each score of a cell, with seeds 1, 2, ..."""
    for cell, scores in cells.items():
        for seed, bleu in enumerate(scores, 1):
            put(results, record("demo", cell, seed, {"bleu": bleu}))


def test_a_cell_has_a_mark_for_each_seed_and_an_interval_from_three_seeds_on(tmp_path: Path) -> None:
    put_scores(tmp_path, {"ln": (35.0, 36.0), "pn": (35.0, 35.5, 37.0), "pn,norm.group_scaling=false": (33.0,)})
    figure, texts = drawn(tmp_path)
    assert "95 % t interval over seeds" in texts
    assert "○ one seed" in texts
    assert "pn group_scaling=false" in texts
    assert "BLEU, linear" in texts
    lines = figure.axes[0].lines
    dots = [line for line in lines if line.get_marker() == "o"]
    assert [float(line.get_xdata()[0]) for line in dots] == pytest.approx([35.5, 35 + 2.5 / 3, 33.0])
    assert [line.get_markerfacecolor() for line in dots] == [style.color("ln"), style.color("pn"), "white"]
    assert [list(line.get_xdata()) for line in lines if line.get_marker() == "|"] == [[35.0, 36.0], [35.0, 35.5, 37.0]]
    (interval,) = [line.get_xdata() for line in lines if line.get_marker() == "None"]
    error = np.std([35.0, 35.5, 37.0], ddof=1) / np.sqrt(3)
    assert np.ptp(interval) == pytest.approx(2 * 4.303 * error, abs=1e-3), "Student's t with 2 degrees of freedom"
    assert np.mean(interval) == pytest.approx(35 + 2.5 / 3)
    assert_legible(figure)


def test_two_seeds_of_every_cell_are_drawn_and_single_seeds_alone_are_not(tmp_path: Path) -> None:
    put_scores(tmp_path, {"ln": (35.0,), "pn": (36.0,)})
    assert final_scores(read_results(tmp_path), "runs") is None
    put_scores(tmp_path, {"ln": (35.0, 36.0), "pn": (36.0, 36.5)})
    assert "one seed" not in drawn(tmp_path)[1]


def test_a_setting_of_all_cells_is_named_once(tmp_path: Path) -> None:
    cells = ("ln,norm.eps=0.1,optimization.max_epoch=8", "pn,optimization.max_epoch=8")
    put_scores(tmp_path, dict.fromkeys(cells, (35.0, 36.0)))
    assert drawn(tmp_path)[1].count("max_epoch=8") == 1


def test_runs_that_diverged_are_counted_under_the_figure(tmp_path: Path) -> None:
    put_scores(tmp_path, {"ln": (35.0, 36.0), "pn": (35.0, 36.0)})
    assert "diverged" not in drawn(tmp_path)[1]
    put_diverged(tmp_path, "demo", "pn", 3)
    put_diverged(tmp_path, "demo", "bn,optimization.lr=0.5", 1)
    assert "runs that diverged: bn, optimization.lr=0.5 (1 of 1); pn (1 of 3)" in drawn(tmp_path)[1]


def test_perplexities_far_apart_have_a_logarithmic_axis(tmp_path: Path) -> None:
    for norm, ppls in (("ln", (50.0, 51.0, 52.0)), ("pn", (20.0, 20.1, 20.2)), ("bn", (400.0, 390.0, 410.0))):
        for seed, ppl in enumerate(ppls, 1):
            put(tmp_path, language_model("ptb", norm, seed, ppl))
    figure, texts = drawn(tmp_path)
    assert "perplexity, log" in texts
    assert "lower is better" in texts
    assert clipped(figure) == []
