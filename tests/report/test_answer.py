"""The sentences of the answer."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from normplugins.evaluation.significance import LEVEL
from normplugins.report.answer import format_p, sentences
from normplugins.report.contrasts import CHECKPOINTS, find
from normplugins.report.probe_table import probe_table
from normplugins.report.records import read_results
from tests.helpers.records import put_translated


@given(st.floats(1e-9, 1) | st.floats(LEVEL - 1e-3, LEVEL + 1e-3))
def test_a_rounded_p_value_is_close_and_on_the_same_side_of_the_level(p: float) -> None:
    shown = float(format_p(p))
    assert (shown < LEVEL) == (p < LEVEL)
    assert abs(shown - p) <= (0.005 if p > 0.095 else 0.05 * p) + 1e-12


def test_bns_validation_loss_is_compared_with_lns_for_either_kind_of_statistics(tmp_path: Path) -> None:
    def said() -> str:
        findings = {name: find(tmp_path, name, resamples=50) for name in CHECKPOINTS}
        return " ".join(sentences(tmp_path, findings, read_results(tmp_path), probe_table(tmp_path)))

    def put(cell: str, seed: int, loss: float, **others: float) -> None:
        ends = [{"update": 100 * epoch, "epoch": epoch, "loss": loss, **others} for epoch in range(1, 7)]
        layers = {"encoder.final_norm": {"tokens": 100.0}}
        curves, probe = {"train": [], "valid": ends}, [{"update": 100, "layers": layers}]
        put_translated(tmp_path, cell, seed, {1: seed}, curves=curves, statistics_probe=probe)

    put("bn", 1, 3.5, train_mode_loss=3.125)
    assert "BN's label-smoothed validation loss" not in said(), "there is no LN"
    put("bn", 2, 3.25, train_mode_loss=3.0)
    for seed in (1, 2):
        put("ln", seed, 3.0)
    assert (
        "minus LN's is +0.375 (+0.250 to +0.500) bits with running statistics, and +0.062 (+0.000 to +0.125) bits"
    ) in said()
