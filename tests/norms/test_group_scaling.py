"""Group scaling as the first step of the norms that have it as a switch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from normplugins.norms import NormConfig, build_norm, end_update
from normplugins.norms.group_scaling import scale_groups
from tests.helpers.norms import buffers, random_affine, set_affine, step

EPS = 1e-3
SWITCHED = ("bn", "pnv", "pn_alg2")


def scaled(name: str, groups: int = 3, **changes: Any) -> nn.Module:
    """The norm of 6 channels with group scaling first, with weights and biases away from 1 and 0."""
    config = NormConfig(name, eps=EPS, groups=groups, group_scaling=True, **changes)
    return random_affine(build_norm(config, 6).double())


def batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x and dL/dy (5, 3, 6) about a mean that is not 0, and padding (3, 5): a sentence is all padding."""
    generator = torch.Generator().manual_seed(seed)
    x, g = torch.randn(2, 5, 3, 6, generator=generator, dtype=torch.float64)
    return 2 * x + 1, g, torch.arange(5) >= torch.tensor([[5], [2], [0]])


@pytest.mark.parametrize("per_update", [False, True])
@pytest.mark.parametrize("kernels", ["auto", "plain"])
@pytest.mark.parametrize("name", SWITCHED)
def test_a_norm_with_it_matches_the_norm_of_scaled_tokens(name: str, kernels: str, per_update: bool) -> None:
    """By autograd through the scaling; two micro-batches an update."""
    whole = scaled(name, kernels=kernels, per_update=per_update)
    second = build_norm(NormConfig(name, eps=EPS, per_update=per_update, kernels="plain"), 6).double()
    set_affine(second, whole.weight, whole.bias)
    for seed in range(4):
        x, g, mask = batch(seed)
        got, leaf = step(whole, x, mask, g), x.clone().requires_grad_()
        second.zero_grad()
        y = second(scale_groups(leaf.view(-1, 6), 3, EPS).view_as(x), mask)
        y.backward(g)
        assert_close((got.y, got.gx, got.gw, got.gb), (y.detach(), leaf.grad, second.weight.grad, second.bias.grad))
        if seed % 2:
            end_update(whole)
            end_update(second)
        assert_close(buffers(whole), buffers(second))
    real, z = ~mask.t(), scale_groups(x.view(-1, 6), 3, EPS).view_as(x)
    assert_close(whole.eval()(x, mask)[real], second.eval()(z, mask)[real])


@pytest.mark.parametrize("junk", [1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("kernels", ["auto", "plain"])
@pytest.mark.parametrize("name", SWITCHED)
def test_values_in_padding_have_no_effect(name: str, kernels: str, junk: float) -> None:
    bare, padded = scaled(name, kernels=kernels), scaled(name, kernels=kernels)
    for seed in range(3):
        x, g, mask = batch(seed)
        real = ~mask.t()
        filled = torch.where(real.unsqueeze(-1), x, junk)
        want, got = step(bare, x[real], None, g[real]), step(padded, filled, mask, g)
        assert_close((got.y[real], got.gx[real], got.gw, got.gb), (want.y, want.gx, want.gw, want.gb))
        assert not got.y[~real].any()
        assert not got.gx[~real].any()
        assert_close(buffers(padded), buffers(bare))
    assert_close(padded.eval()(filled, mask)[real], bare.eval()(x[real]))


@pytest.mark.parametrize("kernels", ["auto", "plain"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [*SWITCHED, "rms"])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype, kernels: str) -> None:
    low, full = scaled(name, kernels=kernels).float(), scaled(name, kernels=kernels).float()
    for seed in range(2):
        x, g, mask = batch(seed)
        x, g = (3e3 * x).to(dtype), g.to(dtype)  # the squares are out of float16's range
        got, want = step(low, x, mask, g), step(full, x.float(), mask, g.float())
        assert got.y.dtype == got.gx.dtype == dtype
        assert_close((got.y, got.gx), (want.y.to(dtype), want.gx.to(dtype)), rtol=0, atol=0)
        assert_close(buffers(low), buffers(full), rtol=0, atol=0)


@pytest.mark.parametrize("name", [*SWITCHED, "pn"])
def test_norms_refuse_groups_that_do_not_divide_the_channels_and_ignore_them_without(name: str) -> None:
    with pytest.raises(ValueError, match="6 channels cannot be split into 4 equal groups; change groups"):
        build_norm(NormConfig(name, groups=4, group_scaling=True), 6)
    build_norm(NormConfig(name, groups=4, group_scaling=False), 6)
