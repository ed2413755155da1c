"""What autograd keeps, counted by hand, and how a full batch's time follows from smaller ones."""

import pytest
import torch
from torch import nn

import normplugins
from normplugins import compat  # noqa: F401  (before fairseq)
from normplugins.evaluation.translation import bare_task, made_up_batch
from normplugins.runs.compose import compose_config, fairseq_config
from normplugins.runs.measured_step import Memory, Step, extended, measure, saved_bytes
from tests.helpers.runs import TINY

# isort: split
from fairseq.data import Dictionary


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


@pytest.mark.parametrize("norm", ["ln", "pn"])
def test_a_full_batch_keeps_what_few_sentences_foretell(norm):
    normplugins.register()
    settings = fairseq_config(compose_config("demo", [f"norm={norm}", *TINY]))
    dictionary = Dictionary()
    for index in range(50):
        dictionary.add_symbol(str(index))
    task = bare_task(settings.task, dictionary)

    def batch(sentences, length):
        return made_up_batch(torch.randint(4, 54, (sentences, length)))

    step = measure(settings, task, batch, full=200, length=10, longest=25)
    model, criterion = task.build_model(settings.model), task.build_criterion(settings.criterion)
    model.train()
    for length, foretold in step.memory.activations.items():
        full = batch(200 // length, length)
        assert foretold == pytest.approx(saved_bytes(model, lambda full=full: criterion(model, full)), rel=0.005)
    assert step.full_tokens == 200
    assert sorted(step.memory.activations) == [10, 25]


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
