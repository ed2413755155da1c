"""Mean-only BatchNorm and the linear maps that it normalizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from normplugins.norms import NormConfig, build_norm
from tests.helpers.norms import random_affine


@pytest.mark.parametrize("training", [True, False])
def test_gradient_is_exact_through_the_map_that_follows(training: bool) -> None:
    norm, linear = random_affine(build_norm(NormConfig("weight"), 4).double()).train(training), nn.Linear(4, 3).double()
    norm.wrap_linears(linear)
    mask = torch.tensor([[False, False, True], [False, True, True]])
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    model = nn.ModuleDict({"norm": norm, "linear": linear})
    names, parameters = zip(*model.named_parameters(), strict=True)

    def forward(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, values, strict=True))
        bias = given.pop("norm.bias")
        own = {name.removeprefix("linear."): value for name, value in given.items()}
        y = torch.func.functional_call(norm, {"bias": bias}, (x, mask))
        return torch.func.functional_call(linear, own, (y,))

    assert torch.autograd.gradcheck(forward, (x, *parameters))


@settings(deadline=None, max_examples=25)
@given(length=st.floats(1e-3, 1e3), seed=st.integers(0, 2**16))
def test_a_rows_length_is_g_whatever_v_is(length: float, seed: int) -> None:
    torch.manual_seed(seed)
    linear = nn.Linear(5, 3).double()
    before, norm = linear.weight.detach().clone(), build_norm(NormConfig("weight"), 5)
    norm.wrap_linears(linear)
    g, v = (linear.parametrizations.weight.get_parameter(f"original{i}") for i in (0, 1))
    assert_close(linear.weight, before)
    with torch.no_grad():
        v.mul_(length)
        g.fill_(2)
    assert_close(linear.weight, 2 * before / before.norm(dim=1, keepdim=True))


def test_centring_before_the_map_is_mean_only_batch_norm_after_it() -> None:
    """The paper's t = w x - mean(w x) + b, with both means over the real tokens."""
    norm, linear = build_norm(NormConfig("weight"), 4).double(), nn.Linear(4, 3).double()
    norm.wrap_linears(linear)
    mask = torch.tensor([[False, False, True], [False, True, True]])
    x, real = torch.randn(3, 2, 4, dtype=torch.float64), ~mask.t()
    t = x[real] @ linear.weight.t()
    assert_close(linear(norm(x, mask))[real], t - t.mean(0) + linear.bias)


def test_one_token_alone_gives_the_bias() -> None:
    norm = random_affine(build_norm(NormConfig("weight"), 4))
    assert_close(norm(torch.randn(1, 4))[0], norm.bias)
