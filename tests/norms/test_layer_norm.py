"""LayerNorm against a plain reference and PyTorch's own."""

import numpy as np
import torch
from torch import nn

from normplugins.norms import NormConfig, build_norm
from tests.helpers import reference
from tests.helpers.norms import random_affine


def test_it_is_the_reference() -> None:
    norm = random_affine(build_norm(NormConfig("ln", eps=1e-3), 6).double())
    x = np.random.default_rng(0).normal(1, 2, (5, 6))
    want = reference.layer_norm(x, norm.weight.detach().numpy(), norm.bias.detach().numpy(), 1e-3)
    np.testing.assert_allclose(norm(torch.from_numpy(x)).detach().numpy(), want, rtol=0, atol=1e-12)


def test_its_checkpoint_is_pytorchs() -> None:
    norm, torchs = build_norm(NormConfig("ln"), 6), nn.LayerNorm(6)
    torchs.load_state_dict(random_affine(norm).state_dict())
    x = torch.randn(3, 2, 6)
    assert torch.equal(norm(x, torch.zeros(2, 3, dtype=torch.bool)), torchs(x))
