"""Group scaling gives each channel group of each token a quadratic mean of one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normplugins.norms.group_scaling import check_groups, scale_groups


@settings(deadline=None)  # on a busy machine a call may wait
@given(groups=st.integers(1, 4), size=st.integers(1, 5), scale=st.floats(1e-3, 1e3))
def test_groups_have_quadratic_mean_one_whatever_their_scale(groups: int, size: int, scale: float) -> None:
    rows = scale * (1 + torch.rand(6, groups * size, dtype=torch.float64))
    z = scale_groups(rows, groups, eps=1e-30)
    torch.testing.assert_close(z.view(6, groups, size).square().mean(-1), torch.ones(6, groups, dtype=torch.float64))


def test_eps_is_under_the_root_and_zeros_stay() -> None:
    rows = torch.tensor([[3.0, 4.0, 0.0, 0.0]])
    want = torch.tensor([[3.0, 4.0, 0.0, 0.0]]) / (12.5 + 0.5) ** 0.5
    torch.testing.assert_close(scale_groups(rows, 2, eps=0.5), want)


def test_groups_must_divide_the_channels() -> None:
    check_groups(8, 4)
    with pytest.raises(ValueError, match="6 channels cannot be split into 4"):
        check_groups(6, 4)
