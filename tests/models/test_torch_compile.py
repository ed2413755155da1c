"""A model with compiled layers: the same numbers, in one graph for each kind of layer, whatever the lengths."""

import copy

import pytest
import torch

from normplugins.models.layers import compile_layers, not_compiled
from normplugins.norms import end_update
from tests.helpers.compiler import needs_torch_compile
from tests.helpers.language_models import lm_loss, make_language_model, make_segments
from tests.helpers.models import loss_of, make_batch, make_model

pytestmark = [pytest.mark.slow, needs_torch_compile]


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def assert_same_training(model, losses, backend):
    """Train on each loss, compiled and not; returns both models."""
    compiled = copy.deepcopy(model)
    compile_layers(compiled, backend=backend)
    for loss in losses:
        for one in (model, compiled):
            loss(one).backward()
            end_update(one)
        assert loss(compiled).item() == pytest.approx(loss(model).item(), rel=1e-5)
    torch.testing.assert_close(compiled.state_dict(), model.state_dict())  # the same names too
    assert not torch._dynamo.utils.counters["graph_break"]
    gradients = [{name: p.grad for name, p in one.named_parameters()} for one in (model, compiled)]
    torch.testing.assert_close(gradients[1], gradients[0])
    return model, compiled


def test_translation():
    """Two encoder and two decoder layers, three lengths, two batch sizes: a graph for each of the two kinds."""

    def of(seed, sentences, repeats):
        batch = {key: value[:sentences].repeat(1, repeats) for key, value in make_batch(seed).items()}
        return lambda model: loss_of(model, batch)

    losses = [of(0, 4, 1), of(1, 3, 2), of(2, 4, 3)]
    model, compiled = assert_same_training(make_model(encoder_norm="pn", decoder_norm="bn"), losses, "aot_eager")
    assert graphs() == 2
    model.eval()
    compiled.eval()
    with torch.no_grad(), not_compiled():
        assert loss_of(compiled, make_batch(3)).item() == pytest.approx(loss_of(model, make_batch(3)).item(), rel=1e-5)
    assert graphs() == 2


@pytest.mark.parametrize("kind", ["transformer", "tensor"])
def test_language_models(kind):
    assert_same_training(
        make_language_model(kind, norm="bn"),
        [lambda model, seed=seed: lm_loss(model, make_segments(seed)) for seed in (0, 1)],
        "eager",
    )
    assert graphs() == 1
