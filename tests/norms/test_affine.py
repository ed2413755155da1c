"""None, and the affine map that the evaluation of other norms equals."""

import pytest
import torch
from torch.testing import assert_close

from normplugins.norms import NormConfig, build_norm
from tests.helpers.norms import random_affine, step


def test_none_returns_x_and_has_nothing_to_save() -> None:
    norm, x = build_norm(NormConfig("none"), 6), torch.randn(3, 2, 6)
    assert torch.equal(norm(x), x)
    assert torch.equal(norm(x, torch.ones(2, 3, dtype=torch.bool)), x)
    assert not norm.state_dict()


@pytest.mark.parametrize("name", ["bn", "pnv", "pn_alg2", "weight", "pn", "bn_released"])
def test_evaluation_is_the_fixed_affine_map(name: str) -> None:
    norm = random_affine(build_norm(NormConfig(name, group_scaling=False), 6)).double()
    mask = torch.tensor([[False] * 4, [False, False, True, True]])
    for _ in range(3):
        step(norm, torch.randn(4, 2, 6, dtype=torch.float64) * 3 + 1, mask, torch.randn(4, 2, 6, dtype=torch.float64))
    scale, shift = norm.eval().fixed_affine()
    x = torch.randn(4, 2, 6, dtype=torch.float64)
    assert_close(norm(x, mask)[~mask.t()], (scale * x + shift)[~mask.t()], rtol=0, atol=1e-12)
    assert scale.dtype == shift.dtype == build_norm(NormConfig(name, group_scaling=False), 6).fixed_affine()[0].dtype
