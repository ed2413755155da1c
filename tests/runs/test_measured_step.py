"""The memory of a training step, counted by hand."""

from functools import partial

import pytest
import torch
from torch import nn

from normplugins import compat  # noqa: F401  (before fairseq)
from normplugins.evaluation.tasks import kind_of
from normplugins.runs.compose import compose_config, fairseq_config
from normplugins.runs.measured_step import made_up, measure, saved_bytes
from tests.helpers.runs import TINY


def test_what_autograd_saves_counted_by_hand():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(7, 3)
    # the first linear layer saves x, the ReLU its result, and the second linear layer the same result: once
    assert saved_bytes(model, lambda: model(x).sum()) == 4 * (7 * 3 + 7 * 5)
    # a square saves the outputs too; of a view, the whole storage is saved
    assert saved_bytes(model, lambda: model(x).square().sum()) == 4 * (7 * 3 + 7 * 5 + 7 * 2)
    assert saved_bytes(model, lambda: model(torch.randn(9, 3)[2:])) == 4 * (9 * 3 + 7 * 5)
    with torch.no_grad():
        assert saved_bytes(model, lambda: model(x)) == 0


@pytest.mark.parametrize("norm", ["ln", "pn"])
def test_memory_of_a_full_batch(norm):
    """In float32: 4 bytes a number, and Adam has two for each parameter."""
    settings = fairseq_config(compose_config("demo", [f"norm={norm}", *TINY]))
    task, batch = made_up(kind_of("translation"), settings, types=64)
    steps = {full: measure(settings, task, batch, full, 10, 25) for full in (200, 2000)}
    for full, step in steps.items():
        model, criterion = task.build_model(settings.model), task.build_criterion(settings.criterion)
        model.train()
        counts = []
        for length in (10, 25):
            sample = batch(full // length, length)
            counts.append(saved_bytes(model, partial(criterion, model, sample)))
        assert step.memory["activations"] == pytest.approx(max(counts), rel=0.005)
        assert step.memory["gradients"] == 4 * step.parameters
        assert step.memory["optimizer"] == 8 * step.parameters
        assert step.peak is None
    assert (steps[200].tokens, steps[2000].tokens) == (200, 1000)
