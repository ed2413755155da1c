"""Micro-batches, re-estimation, recomputed activations and several calls before a backward, on the kernels."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from normplugins.norms import end_update, reestimate
from tests.helpers.norms import buffers, step
from tests.helpers.triton import DEVICE, assert_same, batch, kernels, plain

pytestmark = pytest.mark.slow
CHANNELS = ("pn", "pn_alg2", "pnv", "bn")


@pytest.mark.parametrize("name", CHANNELS)
def test_an_update_is_one_step_of_all_its_micro_batches(name: str) -> None:
    ours, reference = (make(name, 8, per_update=True, warmup_updates=1).double() for make in (kernels, plain))
    for update in range(3):
        for part in range(2):
            x, g, mask = batch(5, 3, 8, seed=2 * update + part)
            assert_same(ours, reference, x, mask, g)
        end_update(ours)
        end_update(reference)
        assert_close(buffers(ours), buffers(reference), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CHANNELS)
def test_statistics_are_reestimated(name: str) -> None:
    ours, reference = (make(name, 8).double() for make in (kernels, plain))
    for norm in (ours, reference):
        with reestimate(norm):
            for seed in range(2):
                x, g, mask = batch(5, 3, 8, seed=seed)
                step(norm, x, mask, g)
    assert_close(buffers(ours), buffers(reference), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_activations_are_counted_once(name: str, reentrant: bool) -> None:
    once, twice = (kernels(name, 8, warmup_updates=1).double() for _ in range(2))
    for s in range(3):
        x, g, mask = batch(5, 3, 8, seed=s)
        want = step(once, x, mask, g)
        twice.zero_grad()
        leaf = x.clone().requires_grad_()
        y = checkpoint(twice, leaf, mask, use_reentrant=reentrant)
        y.backward(g)
        assert torch.equal(y, want.y)
        assert leaf.grad is not None
        assert_close(leaf.grad, want.gx, rtol=1e-12, atol=1e-12)
        assert_close(buffers(twice), buffers(once), rtol=1e-12, atol=1e-12)


def test_each_backward_is_that_of_its_own_forward() -> None:
    """Two calls before one backward, and a step between an evaluation and its backward."""
    ours, reference = (make("pn_alg2", 8).double() for make in (kernels, plain))
    x, g, mask = batch(5, 3, 8)
    leaves = []
    for norm in (ours, reference):
        leaf = x.clone().requires_grad_()
        (norm(norm(leaf, mask), mask) * g).sum().backward()
        norm.eval()
        y = norm(leaf, mask)
        norm.train()(3 * x, mask)
        (y * g).sum().backward()
        leaves.append(leaf.grad)
    assert_close(*leaves)
    assert_close(buffers(ours), buffers(reference))


def test_nothing_is_saved_without_gradients() -> None:
    norm = kernels("pn", 8)
    with torch.no_grad():
        y = norm(torch.randn(3, 8, device=DEVICE))
    assert not y.requires_grad
    assert norm.num_updates.item() == 1
