"""The curves: a whole PNG, the same colour for the same norm."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from normplugins.norms import known_norms
from normplugins.report.figures import colour, curves
from normplugins.report.records import read_results
from tests.helpers.records import language_model, put, record


def drawn(tmp_path: Path, *variants: str, **changes) -> np.ndarray:
    """The pixels (height, width, RGBA) of a figure of runs of these variants."""
    for variant in variants:
        put(tmp_path, record("demo", variant, floor=4.0, **changes))
    path = tmp_path / "curves.png"
    curves(read_results(tmp_path), path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return imread(path)


def pixels_of(image: np.ndarray, norm: str) -> int:
    return int((np.abs(image[..., :3] - to_rgb(colour(norm))).max(-1) < 0.02).sum())


def test_a_figure_is_an_image_with_each_norm_in_its_colour(tmp_path: Path) -> None:
    put(tmp_path, record("demo", "bn", floor=5.0))
    image = drawn(tmp_path, "pn")
    height, width = image.shape[:2]
    assert width >= 1000
    assert height >= 500
    assert pixels_of(image, "bn") > 300
    assert pixels_of(image, "pn") > 300
    assert pixels_of(image, "pn_alg2") == 0


def test_colours_differ_between_the_norms_and_do_not_depend_on_the_others() -> None:
    norms = known_norms()
    assert len({colour(norm) for norm in norms}) == len(norms)
    assert colour("mine") == colour("mine")


def test_a_run_far_shorter_than_the_others_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, record("demo", "bn,optimization.max_update=100", updates=100, floor=4.0))
    image = drawn(tmp_path, "ln", updates=20_000)
    assert pixels_of(image, "bn") == 0
    assert pixels_of(image, "ln") > 300


def test_one_point_or_a_flat_curve_is_no_obstacle(tmp_path: Path) -> None:
    content = record("demo", "pn", updates=50, epochs=1, floor=4.0)
    content["curves"]["train"] = []
    put(tmp_path, content)
    assert pixels_of(drawn(tmp_path), "pn") > 20


def test_the_users_own_matplotlib_settings_change_nothing(tmp_path: Path) -> None:
    plain = drawn(tmp_path, "ln")
    with mpl.rc_context({"lines.linewidth": 9, "axes.facecolor": "red", "savefig.dpi": 20}):
        assert np.array_equal(drawn(tmp_path, "ln"), plain)
        assert mpl.rcParams["lines.linewidth"] == 9


def test_kinds_of_language_models_are_drawn_in_styles_of_their_own(tmp_path: Path) -> None:
    inks = {}
    for variant in ("pn", "pn,model.causal=true", "pn,architecture=transformer"):
        put(tmp_path / variant, language_model("ptb", variant, floor=4.0))
        path = tmp_path / f"{variant}.png"
        curves(read_results(tmp_path / variant), path)
        # the training panel alone: it has no markers, and the legend is below it
        image = imread(path)
        inks[variant] = pixels_of(image[: image.shape[0] * 3 // 4, : image.shape[1] // 2], "pn")
    solid, dashed, dotted = inks.values()
    assert solid > 1.2 * dashed
    assert dashed > 1.2 * dotted > 50


def test_a_long_legend_makes_the_figure_taller_and_leaves_the_curves_their_room(tmp_path: Path) -> None:
    few = drawn(tmp_path / "few", "ln", "pn")
    for norm in known_norms():
        for kind in ("", ",model.causal=true"):
            put(tmp_path / "many", language_model("demo", norm + kind, floor=4.0))
    many = drawn(tmp_path / "many")
    assert many.shape[0] > few.shape[0] + 100
    assert many.shape[1] == few.shape[1]
