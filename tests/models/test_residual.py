"""Models whose norms add the residual sums up themselves, in Triton's interpreter, are the models that they were."""

import pytest
import torch

from normplugins.models.layers import run_layer
from normplugins.norms.backends.dispatch import Dispatched
from normplugins.norms.deferred_residual import DeferredResidual
from tests.helpers.language_models import lm_loss, make_language_model, make_segments
from tests.helpers.models import loss_of, make_batch, make_model
from tests.helpers.triton import skip_without_triton

skip_without_triton()
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def added(monkeypatch):
    """How many sums have been left to norms; without a GPU, in the interpreter."""
    if torch.cuda.is_available():
        pytest.skip("these models stay on the CPU, where there is an interpreter only without a GPU")
    made, init = [], DeferredResidual.__init__

    def count(self, *args):
        init(self, *args)
        made.append(self)

    monkeypatch.setattr(DeferredResidual, "__init__", count)
    return made


def trained(model, loss):
    """Losses, gradients and state of two steps."""
    losses = []
    for seed in range(2):
        torch.manual_seed(seed)
        losses.append(loss(model, seed))
        losses[-1].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return torch.stack(losses).detach(), gradients, model.state_dict()


def translation_loss(model, seed):
    return loss_of(model, make_batch(seed))


@pytest.mark.parametrize("pre", [True, False])
def test_translation(added, pre):
    """PN in the encoder, BN in the decoder; the norm at the decoder's end, LN, adds nothing up."""
    settings = {
        "encoder_norm": "pn",
        "decoder_norm": "{attention:bn,ffn:bn,final:ln}" if pre else "bn",
        "norm_groups": 2,
        "norm_warmup_updates": 1,
        "normalize_before": pre,
    }
    want = trained(make_model(**settings, norm_kernels="plain").double(), translation_loss)
    assert not added
    got = trained(make_model(**settings, norm_kernels="triton").double(), translation_loss)
    assert len(added) == 2 * (2 * 2 + 2 * 3)
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["transformer", "tensor"])
def test_language_models(added, kind):
    want, got = (
        trained(
            make_language_model(kind, norm="pnv", norm_kernels=kernels).double(),
            lambda model, seed: lm_loss(model, make_segments(seed)),
        )
        for kernels in ("plain", "triton")
    )
    assert added
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9)


def test_activation_checkpointing_draws_the_same_masks(added):
    """And keeps one tensor for a layer: its sum is added up."""
    settings = {"encoder_norm": "pn_alg2", "decoder_norm": "rms", "dropout": 0.3, "norm_kernels": "triton"}
    once, twice = (make_model(**settings, checkpoint_activations=recompute).double() for recompute in (False, True))
    # a sum at a layer's end is added up by PyTorch there, with a mask of its own: only without dropout alike
    for model in (once, twice):
        for layer in (*model.encoder.layers, *model.decoder.layers):
            layer.feed_forward.dropout = 0.0
    torch.testing.assert_close(trained(twice, translation_loss), trained(once, translation_loss))
    assert {total.p for total in added} == {0.3, 0.0}


@pytest.mark.parametrize("recompute", [True, False])
def test_a_layer_hands_its_last_sum_on_unless_it_is_run_again(recompute):
    layer = make_model(encoder_norm="rms", norm_kernels="triton").encoder.layers[0]
    mask = torch.zeros(2, 3, dtype=torch.bool)
    out = run_layer(layer, torch.randn(3, 2, 16), mask, (torch.zeros(2, 1, 1, 3),), recompute=recompute)
    assert isinstance(out, torch.Tensor if recompute else DeferredResidual)


def test_outside_of_training_nothing_is_left_to_add_up(added):
    """Nor where norms take statistics in a model that drops nothing."""
    model = make_model(encoder_norm="pn", decoder_norm="pnv", dropout=0.3, norm_kernels="triton").eval()
    loss_of(model, make_batch())
    for module in model.modules():
        module.train(isinstance(module, Dispatched) and module.has_fast_code)
    loss_of(model, make_batch())
    assert not added
