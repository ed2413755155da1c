"""The norm ``none`` returns x."""

import torch

from normplugins.norms import NormConfig, build_norm


def test_it_returns_x_and_has_nothing_to_save() -> None:
    norm, x = build_norm(NormConfig("none"), 6), torch.randn(3, 2, 6)
    assert torch.equal(norm(x), x)
    assert torch.equal(norm(x, torch.ones(2, 3, dtype=torch.bool)), x)
    assert not norm.state_dict()
