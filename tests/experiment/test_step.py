"""What autograd keeps, counted by hand, and how a full batch's time follows from smaller ones."""

import pytest
import torch
from torch import nn

from normplugins.experiment.step import Memory, Step, extended, saved_bytes


def test_what_autograd_keeps_counted_by_hand():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(7, 3)
    # the first linear map keeps x, the ReLU its result, and the second linear map the same result: once
    assert saved_bytes(model, lambda: model(x).sum()) == 4 * (7 * 3 + 7 * 5)
    # a square keeps the outputs besides; of a view, the whole storage
    assert saved_bytes(model, lambda: model(x).square().sum()) == 4 * (7 * 3 + 7 * 5 + 7 * 2)
    assert saved_bytes(model, lambda: model(torch.randn(9, 3)[2:])) == 4 * (9 * 3 + 7 * 5)
    with torch.no_grad():
        assert saved_bytes(model, lambda: model(x)) == 0


@pytest.mark.parametrize(
    ("points", "full", "seconds"),
    [
        ([(4, 1.0)], 4, 1.0),  # it was full
        ([(2, 1.5), (6, 2.5)], 6, 2.5),
        ([(2, 1.5), (6, 2.5)], 10, 3.5),  # one second, and a quarter for each sentence
        ([(2, 3.0), (6, 2.4)], 12, 4.8),  # noise: in proportion
        ([(2, 0.1), (6, 2.4)], 12, 4.8),
    ],
)
def test_a_full_batch_lies_on_the_line_through_the_last_two(points, full, seconds):
    assert extended(points, full) == pytest.approx(seconds)


def test_an_update_is_its_batches_and_one_step_of_the_optimizer():
    memory = Memory(parameters=10, gradients=10, optimizer=20, activations={30: 500, 100: 700}, peak=None)
    step = Step(10, 30, 1.0, 60, 2.0, 0.5, memory)
    assert step.seconds(16) == 32.5
    assert memory.total == 740
