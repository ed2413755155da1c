"""BatchNorm against recorded vectors, and a batch of one token."""

import numpy as np
import pytest
import torch

from normplugins.norms import NormConfig, build_norm
from tests.helpers.norms import GOLDEN, random_affine, replay


@pytest.mark.parametrize("i", [0, 1, 2])
def test_released_bn_is_reproduced(i: int) -> None:
    vectors = np.load(GOLDEN / f"batch_released_{i}.npz")
    config = NormConfig("bn_released", eps=float(vectors["meta_eps"]), groups=4)  # its scaling has one group, always
    assert float(vectors["meta_momentum"]) == 0.05  # the norm's own default
    replay(build_norm(config, len(vectors["weight"])), vectors, ("running_mean", "running_var"))


def test_bn_with_both_switches_and_momentum_is_bn_released() -> None:
    vectors = np.load(GOLDEN / "batch_released_0.npz")
    config = NormConfig("bn", momentum=0.05, groups=1, group_scaling=True, padding_filled=True)
    replay(build_norm(config, len(vectors["weight"])), vectors, ("running_mean", "running_var"))


def test_one_token_alone_gives_the_bias() -> None:
    norm = random_affine(build_norm(NormConfig("bn"), 4))
    y = norm(torch.randn(1, 4))
    torch.testing.assert_close(y[0], norm.bias)
    torch.testing.assert_close(norm.running_var, torch.full((4,), 0.9))
