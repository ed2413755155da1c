"""Mean-only BatchNorm and the linear maps that it normalizes."""

import torch
from torch import nn
from torch.testing import assert_close

from normplugins.norms import NormConfig, build_norm
from tests.helpers.norms import random_affine


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
