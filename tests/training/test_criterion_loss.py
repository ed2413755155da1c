"""Comparison of the loss and its gradients with fairseq's equations on all logits, in float64."""

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from normplugins.training.criterion import smoothed_loss
from tests.helpers.memory import Largest

PAD = 1


def drawn(count: int, vocabulary: int, padding: float, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return random features (N, 6), weights (V, 6), and targets (N,) with a share of padding."""
    generator = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(rows, 6, generator=generator, dtype=torch.float64) for rows in (count, vocabulary))
    target = torch.randint(0, vocabulary, (count,), generator=generator)
    target[torch.rand(count, generator=generator) < padding] = PAD
    return (x * spread).requires_grad_(), weight.requires_grad_(), target


def whole(x: Tensor, weight: Tensor, target: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return fairseq's loss in the dtype of ``x``."""
    return label_smoothed_nll_loss((x @ weight.t()).log_softmax(-1), target, epsilon, ignore_index=PAD)


@settings(deadline=None, max_examples=80)
@given(
    count=st.integers(0, 9),
    vocabulary=st.integers(2, 12),
    padding=st.sampled_from([0.0, 0.5, 1.0]),
    epsilon=st.sampled_from([0.0, 0.1, 0.6]),
    chunk=st.integers(1, 10),
    skip_ignored=st.booleans(),
    spread=st.sampled_from([0.0, 1.0, 100.0]),
    scale=st.sampled_from([1.0, 0.0, -3.0]),
    seed=st.integers(0, 2**16),
)
def test_loss_equals_fairseqs(count, vocabulary, padding, epsilon, chunk, skip_ignored, spread, scale, seed):
    tensors = drawn(count, vocabulary, padding, seed, spread)
    wanted = whole(*tensors, epsilon)
    got = smoothed_loss(*tensors, epsilon, PAD, chunk=chunk, skip_ignored=skip_ignored)
    assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    assert not got[1].requires_grad
    gradients = [torch.autograd.grad(scale * loss, tensors[:2]) for loss in (got[0], wanted[0])]
    assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_large_logits_give_finite_losses_and_gradients():
    """For logits of a thousand, the largest logit is subtracted before the exponential."""
    x, weight, target = drawn(6, 5, 0.0, 2, spread=1000.0)
    x, weight = (tensor.detach().float().requires_grad_() for tensor in (x, weight))
    loss, _ = smoothed_loss(x, weight, target, 0.1, PAD)
    loss.backward()
    exact = x.detach().double().requires_grad_()
    wanted, _ = whole(exact, weight.detach().double(), target, 0.1)
    wanted.backward()
    tolerance = {"rtol": 1.3e-6, "atol": 1e-5}  # those of float32; processors round its sums differently
    assert_close((loss.double(), x.grad.double()), (wanted, exact.grad), **tolerance)


@pytest.mark.parametrize("chunk", [None, 16])
def test_bfloat16_is_computed_in_float32(chunk):
    """The errors are at most twice those of fairseq's loss with a float32 softmax."""
    x, weight, target = drawn(64, 300, 0.1, 3)
    x, weight = (tensor.detach().bfloat16().requires_grad_() for tensor in (x, weight))
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
    stock = label_smoothed_nll_loss((x @ weight.t()).log_softmax(-1, torch.float32), target, 0.1, ignore_index=PAD)
    ours = smoothed_loss(x, weight, target, 0.1, PAD, chunk=chunk)
    reference = whole(exact[0], exact[1], target, 0.1)
    assert [loss.dtype for loss in ours] == [torch.float32] * 2
    of_reference = torch.autograd.grad(reference[0], exact)
    of_ours, of_stock = (torch.autograd.grad(loss, (x, weight)) for loss in (ours[0], stock[0]))
    for got, theirs, wanted in zip((*ours, *of_ours), (*stock, *of_stock), (*reference, *of_reference), strict=True):
        error, allowed = ((value.double() - wanted).abs().max() for value in (got, theirs))
        assert error <= 2 * allowed


def test_only_a_chunk_of_the_logits_is_in_memory():
    x, weight, target = drawn(40, 30, 0.2, 4)
    with Largest() as largest:
        smoothed_loss(x, weight, target, 0.1, PAD, chunk=8)[0].backward()
    assert 8 * 30 <= largest.numbers < 40 * 30 / 3


@pytest.mark.parametrize("chunk", [None, 16])
def test_the_host_never_waits_for_the_device(chunk):
    """Tensors on ``meta`` have no values, so that reading one on the host fails."""
    x, weight, target = (tensor.to("meta").detach() for tensor in drawn(40, 30, 0.2, 5))
    x.requires_grad_(), weight.requires_grad_()
    loss, nll = smoothed_loss(x, weight, target, 0.1, PAD, chunk=chunk)
    loss.backward()
    assert (loss.shape, nll.shape, x.grad.shape, weight.grad.shape) == ((), (), (40, 6), (30, 6))


def test_evaluation_computes_no_gradients():
    x, weight, target = drawn(40, 30, 0.2, 6)
    with torch.no_grad(), Largest() as largest:
        loss, _ = smoothed_loss(x, weight, target, 0.1, PAD, chunk=2)
    assert largest.numbers < weight.numel() + x.numel()
    assert not loss.requires_grad
    assert_close(loss, whole(x, weight, target, 0.1)[0].detach())
