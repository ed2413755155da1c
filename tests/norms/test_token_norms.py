"""RMSNorm, ScaleNorm and GroupNorm against plain references; channels that cannot be split."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from normplugins.norms import NormConfig, build_norm
from tests.helpers import reference
from tests.helpers.norms import random_affine

EPS = 1e-3


def tokens() -> np.ndarray:
    return np.random.default_rng(0).normal(1, 2, (5, 8))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_rms_is_the_reference(groups: int) -> None:
    norm, x = random_affine(build_norm(NormConfig("rms", eps=EPS, groups=groups), 8).double()), tokens()
    want = reference.scale_groups(x, groups, EPS) * norm.weight.detach().numpy()
    np.testing.assert_allclose(norm(torch.from_numpy(x)).detach().numpy(), want, rtol=0, atol=1e-12)


def test_scale_is_the_reference() -> None:
    norm, x = random_affine(build_norm(NormConfig("scale", eps=EPS), 8).double()), tokens()
    want = norm.weight.item() / np.sqrt(8) * reference.scale_groups(x, 1, EPS)
    np.testing.assert_allclose(norm(torch.from_numpy(x)).detach().numpy(), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_is_the_reference(groups: int) -> None:
    norm, x = random_affine(build_norm(NormConfig("group", eps=EPS, groups=groups), 8).double()), tokens()
    want = reference.group_norm(x, norm.weight.detach().numpy(), norm.bias.detach().numpy(), groups, EPS)
    np.testing.assert_allclose(norm(torch.from_numpy(x)).detach().numpy(), want, rtol=0, atol=1e-12)


def test_scale_starts_as_rms() -> None:
    x = torch.from_numpy(tokens())
    assert_close(build_norm(NormConfig("scale"), 8).double()(x), build_norm(NormConfig("rms"), 8)(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["rms", "scale", "group"])
def test_a_token_of_zeros_stays_finite(name: str) -> None:
    norm, x = build_norm(NormConfig(name), 8), torch.zeros(2, 8, requires_grad=True)
    y = norm(x)
    y.sum().backward()
    assert not y.any()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_groups_of_unequal_size_or_one_channel_are_refused() -> None:
    for name in ("rms", "group"):
        with pytest.raises(ValueError, match="8 channels cannot be split into 3 equal groups; change groups"):
            build_norm(name, 8, groups=3)
    with pytest.raises(ValueError, match="8 channels in 8 groups of one channel each would always give 0"):
        build_norm("group", 8, groups=8)
