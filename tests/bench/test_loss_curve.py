"""Ours follows stock fairseq's loss curve as closely as stock fairseq itself does when it only rounds otherwise."""

import pytest
import torch

from normplugins.bench.loss_curve import OURS, REVERSED, WITHOUT_DROPOUT, loss_curves, summary
from normplugins.bench.step import training_batches
from normplugins.runs.compose import compose_config

UPDATES = 30
SMALL = [
    *("hardware=cpu", "data_dir=nowhere", "dataset.max_tokens=300", "lr_scheduler.warmup_updates=10"),
    *(f"model.{side}_{size}" for side in ("encoder", "decoder") for size in ("layers=1", "embed_dim=32")),
]


def curves(*overrides: str) -> dict[str, list[float]]:
    config = compose_config("demo", [*WITHOUT_DROPOUT, *SMALL, *overrides])
    torch.manual_seed(1)
    _, task, batches = training_batches(config, UPDATES)
    return loss_curves(config, task, batches)


@pytest.fixture(scope="module")
def found() -> dict[str, list[float]]:
    return curves()


@pytest.mark.parametrize("before", [True, False])
def test_the_curves_are_apart_by_rounding_alone(before, found):
    found = found if before else curves("model.normalize_before=false")
    apart = summary(found)
    assert apart[OURS]["rms"] <= 4 * apart[REVERSED]["rms"]
    assert apart[OURS]["largest"] < 2e-6  # in one update the loss itself has an error of some 1e-7
    assert apart[REVERSED]["largest"] > 0
    assert {len(losses) for losses in found.values()} == {UPDATES}
    assert found[OURS][-1] < found[OURS][0] - 1


def test_a_small_difference_in_the_recipe_shows(found):
    """Adam's eps at 1e-6 in the place of 1e-8."""
    apart = summary(found | {OURS: curves("optimizer.adam_eps=1e-6")[OURS]})
    assert apart[OURS]["rms"] > 20 * apart[REVERSED]["rms"]
