"""Comparison of the criterion with fairseq's, for several models and in several processes."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from fairseq import criterions
from fairseq.distributed import LegacyDistributedDataParallel, ModuleProxyWrapper
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.lstm import LSTMModel
from fairseq.models.transformer import TransformerModel
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.testing import assert_close

from normplugins.training.criterion import output_weight, smoothed_loss
from normplugins.training.trainer import empty
from tests.helpers.models import make_model, make_sample, make_settings, make_task

TASK = make_task()
BOTH = ("label_smoothed_nll", "label_smoothed_cross_entropy")


def build(name: str, **changes: Any) -> Any:
    settings = {"_name": name, "label_smoothing": 0.1, "sentence_avg": False}
    return criterions.build_criterion(OmegaConf.create(settings | changes), TASK)


def stock_model(kind: type) -> nn.Module:
    settings = make_settings(share_all_embeddings=False, criterion="")
    ARCH_CONFIG_REGISTRY["transformer" if issubclass(kind, TransformerModel) else "lstm"](settings)
    torch.manual_seed(0)
    return kind.build_model(settings, TASK)


MODELS = {
    "tied": lambda: make_model(),
    "untied": lambda: make_model(share_all_embeddings=False),
    "pn": lambda: make_model(encoder_norm="pn", decoder_norm="pn"),
    "stock transformer": lambda: stock_model(TransformerModel),
    "stock LSTM": lambda: stock_model(LSTMModel),
}


def outcome(criterion: Any, model: nn.Module, batch: dict[str, Any]) -> tuple[Any, ...]:
    """Return loss, sample size, logging output, and the gradient of every parameter."""
    model.zero_grad()
    loss, size, logged = criterion(model, batch)
    if loss.requires_grad:
        loss.backward()
    return loss.detach(), size, logged, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sentence_avg", [False, True])
def test_loss_counts_logs_and_gradients_equal_fairseqs(name, sentence_avg):
    model = MODELS[name]().double().eval()  # no dropout
    got, wanted = (outcome(build(kind, sentence_avg=sentence_avg), model, make_sample()) for kind in BOTH)
    for ours, theirs in zip(got[:3], wanted[:3], strict=True):
        assert_close(ours, theirs, rtol=1e-6, atol=1e-6, check_dtype=False)  # fairseq's softmax is of float32
    assert_close(got[3], wanted[3], rtol=1e-5, atol=1e-6)
    assert any(gradient is not None and gradient.any() for gradient in got[3].values())


def test_a_transformer_computes_no_logits_itself():
    """This holds for our transformer and for fairseq's, but not for other models."""
    asked = []
    for name, make in MODELS.items():
        model = make()
        if projection := getattr(model.decoder, "output_projection", None):
            projection.register_forward_hook(lambda *_, name=name: asked.append(name))
        build("label_smoothed_nll")(model, make_sample())
        assert (output_weight(model) is None) == (name == "stock LSTM")
    assert asked == []


class _Other(TransformerModel):
    """A stock model that could compute something else between features and probabilities."""


@pytest.mark.parametrize("change", ["bias", "half", "subclass", "parametrized", "no decoder"])
def test_logits_that_are_not_one_linear_map_are_left_to_fairseq(change):
    model = stock_model(_Other if change == "subclass" else TransformerModel)
    if change == "bias":
        model.decoder.output_projection = nn.Linear(16, 20)
    elif change == "half":
        model.half()
    elif change == "parametrized":
        nn.utils.parametrizations.weight_norm(model.decoder.output_projection)
    elif change == "no decoder":
        model = nn.Linear(2, 2)
    assert output_weight(model) is None


@pytest.mark.parametrize("changes", [{"report_accuracy": True}, {"ignore_prefix_size": 2}])
def test_options_that_need_the_loss_of_single_tokens(changes):
    model = make_model().eval()
    got, wanted = (outcome(build(kind, **changes), model, make_sample()) for kind in BOTH)
    assert_close(got[:3], wanted[:3])
    assert changes.get("report_accuracy", False) == ("n_correct" in got[2])


def test_without_reduction_the_loss_is_per_token():
    model, batch = make_model().eval(), make_sample()
    got, wanted = (build(kind)(model, batch, reduce=False)[0] for kind in BOTH)
    assert got.shape == (batch["target"].numel(), 1)
    assert_close(got, wanted)


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_a_batch_without_sentences_has_zero_counts_and_gradients(name):
    """Every parameter has a gradient of zero, because the other processes wait for it."""
    model = MODELS[name]()
    loss, size, logged, gradients = outcome(build("label_smoothed_nll"), model, empty(make_sample()))
    assert (float(loss), size, logged["ntokens"], logged["nsentences"], float(logged["nll_loss"])) == (0, 0, 0, 0, 0)
    assert [name for name, gradient in gradients.items() if gradient is None or gradient.any()] == []


def test_a_bfloat16_model_is_as_close_to_float32_as_with_fairseqs_criterion():
    exact, half = make_model().eval(), make_model().eval().bfloat16()
    exact.load_state_dict(half.state_dict())
    wanted = outcome(build(BOTH[1]), exact, make_sample())
    ours, theirs = (outcome(build(kind), half, make_sample()) for kind in BOTH)
    assert ours[0].dtype == ours[2]["nll_loss"].dtype == torch.float32
    assert abs(ours[0] - wanted[0]) <= 2 * abs(theirs[0] - wanted[0]) + 1e-3 * wanted[0]

    def error(got: dict[str, Tensor]) -> float:
        return sum(float((got[name].float() - wanted[3][name]).square().sum()) for name in got) ** 0.5

    assert error(ours[3]) <= 1.5 * error(theirs[3])


def test_the_scale_of_the_loss_is_not_rounded_to_bfloat16():
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 16, generator=generator) for n in (50, 30))
    x, weight = x.bfloat16().requires_grad_(), weight.requires_grad_()
    loss, _ = smoothed_loss(x, weight, torch.arange(50) % 30, 0.1, 1)
    wanted, got = (torch.autograd.grad(loss * scale, x, retain_graph=True)[0] for scale in (1.0, 0.3))
    assert_close(got, (wanted.float() * 0.3).bfloat16(), rtol=0, atol=0)


def test_class_name_equals_fairseqs_for_checkpoints():
    ours, theirs = (build(kind) for kind in BOTH)
    assert type(ours).__name__ == type(theirs).__name__
    assert type(ours) is not type(theirs)


def gradients_of(kind: str, wrapper: str, tied: bool) -> dict[str, Tensor]:
    """Return the mean gradients of the batches of two processes; the second batch has no sentence."""
    model = make_model(share_all_embeddings=tied)
    model.eval()
    wrapped = {
        "c10d": lambda: nn.parallel.DistributedDataParallel(model),
        "unused": lambda: nn.parallel.DistributedDataParallel(model, find_unused_parameters=True),
        "legacy_ddp": lambda: LegacyDistributedDataParallel(model, dist.group.WORLD),
    }[wrapper]()
    batch = make_sample() if dist.get_rank() == 0 else empty(make_sample())
    for _ in range(2):
        model.zero_grad()
        build(kind)(ModuleProxyWrapper(wrapped), batch)[0].backward()
        if wrapper == "legacy_ddp":
            wrapped.all_reduce_grads()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["c10d", "unused", "legacy_ddp"])
@pytest.mark.parametrize("tied", [True, False])
def test_two_processes_average_their_gradients(wrapper, tied, pair):
    got, wanted = (pair.call(gradients_of, kind, wrapper, tied) for kind in BOTH)
    assert_close(got[0], got[1])
    assert_close(got[0], wanted[0], rtol=1e-4, atol=1e-6)
