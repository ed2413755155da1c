"""LayerNorm against PyTorch's own."""

import torch
from torch import nn

from normplugins.norms import build_norm
from tests.helpers.norms import random_affine


def test_it_is_pytorchs_with_the_same_checkpoint() -> None:
    norm, torchs = build_norm("ln", 6, eps=1e-3), nn.LayerNorm(6, eps=1e-3)
    torchs.load_state_dict(random_affine(norm).state_dict())
    x = torch.randn(3, 2, 6)
    assert torch.equal(norm(x, torch.zeros(2, 3, dtype=torch.bool)), torchs(x))
