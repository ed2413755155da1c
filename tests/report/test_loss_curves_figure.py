"""The loss curves: every norm is shown and named, beside LN, and no text is cut or covers another."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from normplugins.norms import known_norms
from normplugins.report import style
from normplugins.report.loss_curves_figure import curves
from normplugins.report.records import read_results
from tests.helpers.pictures import assert_legible, written
from tests.helpers.records import language_model, put, put_diverged, record


def results_of(tmp_path: Path, *variants: str, **changes) -> pd.DataFrame:
    for variant in variants:
        put(tmp_path, record("demo", variant, floor=4.0, **changes))
    return read_results(tmp_path)


def raised(variant: str, seed: int, by: float) -> dict:
    """A record whose losses are higher by so many bits."""
    content = record("demo", variant, seed, floor=4.0)
    for points in content["curves"].values():
        for point in points:
            point["loss"] += by
    return content


def lines_of(figure: Figure, norm: str, lower: bool) -> list[np.ndarray]:
    """The losses of the lines in a norm's color, in the lower (difference) or in the upper panels."""
    parts = [axes for axes in figure.axes if axes.get_ylabel().startswith("minus") == lower]
    lines = [line for axes in parts for line in axes.lines]
    return [line.get_ydata() for line in lines if to_rgb(line.get_color()) == to_rgb(style.color(norm))]


def test_few_lines_share_a_panel_and_have_labels(tmp_path: Path) -> None:
    figure = curves(results_of(tmp_path, "ln", "pn", "pn,norm.group_scaling=false", "bn"), "demo")
    assert len(figure.axes) == 2
    assert written(figure).count("pn group_scaling=false") == 2
    assert_legible(figure)


@pytest.mark.slow
def test_many_cells_have_a_panel_each_and_every_norm_is_named(tmp_path: Path) -> None:
    norms = known_norms()
    long = ["pn,norm.group_scaling=false,optimization.max_update=100000"]
    figure = curves(results_of(tmp_path, *norms, *long), "demo", "train_curve")
    texts = written(figure)
    assert [norm for norm in norms if norm not in texts] == []
    assert "gray, dotted: ln" in texts
    assert_legible(figure)


@pytest.mark.slow
def test_language_models_are_named_and_compared_with_their_own_ln(tmp_path: Path) -> None:
    for norm in ("ln", "pn", "bn"):
        for kind in ("", ",reading=masked", ",architecture=transformer"):
            put(tmp_path, language_model("ptb", norm + kind, floor=4.0))
    figure = curves(read_results(tmp_path), "demo")
    texts = written(figure)
    assert texts.count("pn reading=masked") == 1
    assert '"sees the future": the model reads' in texts
    assert len(figure.axes) == 2 * 6
    assert_legible(figure)


def test_the_lower_panel_is_the_difference_to_ln_of_the_same_seed(tmp_path: Path) -> None:
    levels = (("ln", 1, 0.0), ("ln", 2, 0.2), ("pn", 1, 0.3), ("pn", 2, 0.7), ("pn", 3, 9.0), ("bn", 2, 0.3))
    for variant, seed, by in levels:
        put(tmp_path, raised(variant, seed, by))
    figure = curves(read_results(tmp_path), "demo")
    assert [lines_of(figure, norm, lower=True)[0] for norm in ("pn", "bn", "ln")] == [
        pytest.approx(level) for level in (0.4, 0.1, 0.0)
    ]
    bands = [band for band in figure.axes[1].collections if isinstance(band, PolyCollection)]
    heights = bands[-1].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.3, 0.5))
    assert "lines: mean over seeds (1 to 3); bands: lowest to highest seed; minus ln: of the same seed" in written(
        figure
    )


def test_one_seed_is_a_line_and_axes_name_quantity_unit_and_scale(tmp_path: Path) -> None:
    figure = curves(results_of(tmp_path, "ln", "pn"), "demo")
    assert not any(axes.collections for axes in figure.axes)
    assert "one seed: each line is one run" in written(figure)
    labels = [text.replace("\n", " ") for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel())]
    assert labels == ["", "loss, linear (bits/token)", "updates, linear", "minus ln, linear (bits/token)"]


def test_without_ln_there_is_no_difference(tmp_path: Path) -> None:
    figure = curves(results_of(tmp_path, "bn", "pn"), "demo")
    assert len(figure.axes) == 1
    assert "minus ln" not in written(figure)


def test_a_panel_without_a_difference_has_no_empty_one_below_it(tmp_path: Path) -> None:
    norms = ("ln", "pn", "bn", "rms", "rms,optimization.lr=0.1")  # LN has no run with this learning rate
    figure = curves(results_of(tmp_path, *norms), "demo")
    assert len(figure.axes) == 2 * 4 - 1
    assert all(axes.lines for axes in figure.axes)
    assert_legible(figure)


def test_a_run_far_shorter_than_the_others_is_only_named(tmp_path: Path) -> None:
    put(tmp_path, record("demo", "bn,optimization.max_update=100", updates=100, floor=4.0))
    figure = curves(results_of(tmp_path, "ln", updates=20_000), "demo")
    assert lines_of(figure, "bn", lower=False) == []
    assert "too short to draw: bn, optimization.max_update=100" in written(figure)


def test_a_run_without_a_curve_is_named_and_hides_no_other(tmp_path: Path) -> None:
    put(tmp_path, raised("pn", 1, 0.3))
    put(tmp_path, record("demo", "pn", 2))
    put(tmp_path, record("demo", "bn", 1))
    put_diverged(tmp_path, "demo", "ln", 1)
    figure = curves(read_results(tmp_path), "demo")
    assert all(len(line) for line in lines_of(figure, "pn", lower=False))
    assert "without a curve: " in written(figure)
    assert "pn (seed 2)" in written(figure)
    assert "bn (seed 1)" in written(figure)
    assert "one seed: each line is one run" in written(figure)


def test_one_point_is_visible(tmp_path: Path) -> None:
    content = record("demo", "pn", updates=50, epochs=1, floor=4.0)
    content["curves"]["train"] = []
    put(tmp_path, content)
    (line,) = curves(read_results(tmp_path), "demo").axes[0].lines
    assert len(line.get_xdata()) == 1
    assert line.get_marker() == "o"
