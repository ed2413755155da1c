"""The sentence on cells that scale each token by itself."""

from pathlib import Path

from normplugins.report.answer import scores_on_test
from normplugins.report.contrasts import CELLS
from normplugins.report.group_scaling import BATCH_ALONE, scaled_tokens
from normplugins.report.records import read_results
from tests.helpers.records import put_translated


def test_the_two_groups_are_compared_by_the_seeds_that_all_cells_have(tmp_path: Path) -> None:
    for cell in CELLS:
        put_translated(tmp_path, cell, 1, {1: 40 if cell in BATCH_ALONE else 10})
    put_translated(tmp_path, "ln", 2, {1: 60})
    scores = scores_on_test(read_results(tmp_path))
    said = scaled_tokens(scores)
    assert f"the {len(CELLS) - 4} cells that scale each token" in said
    assert "means of seed 1, which" in said


def test_groups_that_overlap_and_missing_cells_say_nothing(tmp_path: Path) -> None:
    for cell in CELLS:
        put_translated(tmp_path, cell, 1, {1: 10})
        assert scaled_tokens(scores_on_test(read_results(tmp_path))) == ""
