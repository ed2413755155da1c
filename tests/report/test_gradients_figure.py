"""``normplugins analyze gradients`` with small models: its table, which grows by norm, and its figure."""

from pathlib import Path

import pandas as pd
import pytest

from normplugins.cli import main
from normplugins.evaluation.gradients_by_depth import measure_gradients
from normplugins.report.gradients_figure import COLUMNS, TABLE, draw
from tests.helpers.pictures import assert_legible, written


@pytest.mark.slow
def test_norms_are_added_to_the_table_and_replaced_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = [[norm, "post", 2, "decoder", 1, 7.0, 1, 8] for norm in ("ln", "pn")]
    pd.DataFrame(old, columns=COLUMNS).to_csv(tmp_path / TABLE, index=False)
    arguments = ["--norm", "pn", "--layers", "2", "--results", str(tmp_path)]
    assert main(["analyze", "gradients", *arguments]) == 0
    said = capsys.readouterr().out
    assert "gradients with pn, 5 placements: 20 layers" in said
    names = ("figures/gradients_by_depth.png", "figures/gradients_by_depth.svg", TABLE)
    assert all((tmp_path / name).stat().st_size and f"written: {tmp_path / name}" in said for name in names)
    found = pd.read_csv(tmp_path / TABLE)
    assert list(found["norm"]) == ["ln"] + ["pn"] * 20
    assert (found["gradient"] > 0).all()
    figure = draw(found[found["norm"] == "pn"])
    assert "pn, decoder, 2 layers" in written(figure)
    assert_legible(figure)


def test_in_a_post_norm_decoder_the_last_layers_have_the_largest_gradients() -> None:
    """What Xiong et al. (2020) found, and the reverse in a pre-norm decoder."""
    rows = pd.DataFrame(measure_gradients("ln", [6], 1, width=64))
    found = rows.query("stack == 'decoder'").set_index(["placement", "layer"])["gradient"]
    assert found["post", 6] > 1.5 * found["post", 1]
    assert found["pre", 6] < found["pre", 1]
