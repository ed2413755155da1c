"""Finding the layer or gradient that is not finite."""

import pytest
import torch
from torch.nn.modules.module import _global_forward_hooks

from normplugins.evaluation.tasks import run_task
from normplugins.runs.compose import compose_config, fairseq_config
from normplugins.runs.dry_run import synthetic_task
from normplugins.training.nonfinite import first_nonfinite_state, locate
from normplugins.training.trainer import Trainer
from tests.helpers.runs import TINY


@pytest.fixture
def step():
    """A trainer and the batches of one update."""
    settings = fairseq_config(compose_config("demo", ["norm=pn", *TINY]))
    task, batch = synthetic_task(run_task("translation"), settings, 50)
    torch.manual_seed(1)
    trainer = Trainer(settings, task, task.build_model(settings.model), task.build_criterion(settings.criterion))
    return trainer, [batch(5, 9)]


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("encoder.layers.0.self_attention.sublayer.out.weight", "encoder.layers.0.self_attention.sublayer.out"),
        ("encoder.final_norm.weight", "encoder.final_norm"),
        ("decoder.layers.0.feed_forward.sublayer.fc2.bias", "decoder.layers.0.feed_forward.sublayer.fc2"),
    ],
)
def test_the_first_layer_with_a_nonfinite_output_is_named(parameter, layer, step):
    trainer, samples = step
    with torch.no_grad():
        trainer.get_model().get_parameter(parameter).view(-1)[0] = torch.inf
    assert first_nonfinite_state(trainer.get_model()) == parameter
    assert locate(trainer, samples) == f"the output of {layer}"


def test_a_gradient_is_named_if_all_outputs_are_finite(step):
    trainer, samples = step
    name = "decoder.layers.0.cross_attention.sublayer.q.weight"
    for broken in ("encoder.layers.0.feed_forward.sublayer.fc1.weight", name):  # the second is closer to the loss
        trainer.get_model().get_parameter(broken).register_hook(lambda gradient: gradient * torch.nan)
    assert first_nonfinite_state(trainer.get_model()) is None
    assert locate(trainer, samples) == f"the gradient of {name}"


def test_nothing_is_named_if_all_is_finite_and_no_hook_remains(step):
    trainer, samples = step
    assert locate(trainer, samples) is None
    assert not _global_forward_hooks


def test_a_nonfinite_statistic_is_named(step):
    model = step[0].get_model()
    model.get_buffer("encoder.layers.0.feed_forward.norm.running_phi")[3] = torch.nan
    assert first_nonfinite_state(model) == "encoder.layers.0.feed_forward.norm.running_phi"
