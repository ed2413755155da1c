"""PN-V against a plain reference, and its gradient."""

import numpy as np
import torch

from normplugins.norms import NormConfig, build_norm
from tests.helpers import reference
from tests.helpers.norms import random_affine


def test_it_is_the_reference_on_real_tokens() -> None:
    norm = random_affine(build_norm(NormConfig("pnv", alpha_fwd=0.8), 6).double())
    plain = reference.PowerNormV(6, alpha=0.8)
    w, b = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    rng = np.random.default_rng(0)
    for _ in range(4):
        x, mask = rng.normal(1, 2, (5, 3, 6)), rng.random((3, 5)) < 0.3
        mask[0, 0] = False
        real = ~mask.T
        y = norm(torch.from_numpy(x), torch.from_numpy(mask)).detach().numpy()
        np.testing.assert_allclose(y[real], plain.train(x[real], w, b), rtol=0, atol=1e-12)
        np.testing.assert_allclose(norm.running_phi.numpy(), plain.phi, rtol=0, atol=1e-12)
    norm.eval()
    y = norm(torch.from_numpy(x), torch.from_numpy(mask)).detach().numpy()
    np.testing.assert_allclose(y[real], plain.evaluate(x[real], w, b), rtol=0, atol=1e-12)


def test_gradient_is_exact() -> None:
    norm = random_affine(build_norm(NormConfig("pnv"), 4).double())
    mask = torch.tensor([[False, False, True], [False, True, True]])
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w, b: torch.func.functional_call(norm, {"weight": w, "bias": b}, (x, mask)),
        (x, norm.weight, norm.bias),
    )
