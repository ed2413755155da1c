"""The look of every figure: what a reader needs from it, measured on the drawn figure."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from normplugins.norms import known_norms
from normplugins.report import style
from tests.helpers.pictures import assert_legible


def test_colors_differ_between_the_norms() -> None:
    norms = known_norms()
    assert len({style.color(norm) for norm in norms}) == len(norms)


@pytest.mark.parametrize("positions", [[0.0, 0.1, 0.2], [3.0, 1.0, 1.0, 1.05], [5.0], []])
def test_positions_are_moved_apart_in_their_order_and_about_their_mean(positions: list[float]) -> None:
    moved = style.spread(positions, 0.5)
    assert (np.diff(np.sort(moved)) >= 0.5 - 1e-9).all()
    assert sorted(range(len(moved)), key=moved.__getitem__) == sorted(range(len(moved)), key=positions.__getitem__)
    assert np.sum(moved) == pytest.approx(np.sum(positions))


def test_positions_with_room_stay() -> None:
    assert style.spread([4.0, 0.0, 2.0], 1.0).tolist() == [4.0, 0.0, 2.0]


def test_a_long_title_and_labels_of_lines_that_meet_stay_whole_and_apart() -> None:
    with style.drawing():
        figure = style.new_figure(3)
        axis = figure.subplots()
        axis.set_ylim(0, 1)
        style.heading(figure, "WWW of a figure that is about a great many things " * 4, ["MMM a note " * 20])
        style.label_lines(axis, [style.Label(0.5, f"a norm, long_setting_{n}=true", "#000000") for n in range(5)])
    assert_legible(figure)


def test_the_users_own_settings_neither_change_a_file_nor_are_lost(tmp_path: Path) -> None:
    def drawn(name: str) -> list[bytes]:
        with style.drawing():
            figure = style.new_figure(1)
            figure.subplots().plot([1, 2])
        return [path.read_bytes() for path in style.write(figure, tmp_path / name)]

    plain = drawn("a.b")  # settings in a name may hold a dot
    with mpl.rc_context({"lines.linewidth": 9, "axes.facecolor": "red", "savefig.dpi": 20, "svg.hashsalt": "mine"}):
        assert drawn("c") == plain
        assert mpl.rcParams["lines.linewidth"] == 9
    assert plain[0].startswith(b"\x89PNG")
    assert b"<svg" in plain[1]
    assert {path.name for path in tmp_path.iterdir()} == {"a.b.png", "a.b.svg", "c.png", "c.svg"}
