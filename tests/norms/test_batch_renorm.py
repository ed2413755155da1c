"""Batch Renormalization against a plain reference of the paper's algorithm."""

import numpy as np
import pytest
import torch

from normplugins.norms import NormConfig, build_norm
from tests.helpers.norms import random_affine, step


def reference(x, weight, bias, mean, sigma, r_max, d_max, eps):
    """Algorithm 1 of the paper for tokens x (N, C), with r and d."""
    mean_b, sigma_b = x.mean(0), np.sqrt(x.var(0) + eps)
    r = np.clip(sigma_b / sigma, 1 / r_max, r_max)
    d = np.clip((mean_b - mean) / sigma, -d_max, d_max)
    return weight * ((x - mean_b) / sigma_b * r + d) + bias, mean_b, sigma_b


def test_it_is_the_papers_algorithm_on_real_tokens() -> None:
    settings = {"momentum": 0.3, "warmup_updates": 2, "r_max": 1.5, "d_max": 0.4}
    norm = random_affine(build_norm(NormConfig("renorm", r_max_updates=4, d_max_updates=6, **settings), 6).double())
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    mean, sigma = np.zeros(6), np.sqrt(np.ones(6) + norm.eps)
    rng = np.random.default_rng(0)
    for r_max, d_max in [(1, 0), (1, 0), (1, 0), (1.25, 0.1), (1.5, 0.2), (1.5, 0.3), (1.5, 0.4), (1.5, 0.4)]:
        x, mask = rng.normal(1, 2, (5, 3, 6)), rng.random((3, 5)) < 0.3
        mask[0, 0] = False
        real = ~mask.T
        y = norm(torch.from_numpy(x), torch.from_numpy(mask)).detach().numpy()
        expected, mean_b, sigma_b = reference(x[real], weight, bias, mean, sigma, r_max, d_max, norm.eps)
        np.testing.assert_allclose(y[real], expected, rtol=0, atol=1e-12)
        mean, sigma = mean + 0.3 * (mean_b - mean), sigma + 0.3 * (sigma_b - sigma)
    norm.eval()
    y = norm(torch.from_numpy(x), torch.from_numpy(mask)).detach().numpy()
    np.testing.assert_allclose(y[real], weight * (x[real] - mean) / sigma + bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bounded", [True, False])
def test_no_gradient_passes_through_the_corrections(bounded: bool) -> None:
    limits = {"r_max": 1.2, "d_max": 0.1} if bounded else {"r_max": 1e6, "d_max": 1e6}
    config = NormConfig("renorm", warmup_updates=0, r_max_updates=0, d_max_updates=0, **limits)
    norm = random_affine(build_norm(config, 4).double())
    x = torch.randn(7, 4, dtype=torch.float64) * 2 + 1
    g = torch.randn(7, 4, dtype=torch.float64)
    sigma_b = torch.sqrt(x.var(0, unbiased=False) + norm.eps)
    sigma = torch.sqrt(norm.running_var + norm.eps)
    r = torch.clamp(sigma_b / sigma, 1 / limits["r_max"], limits["r_max"])
    z = (x - x.mean(0)) / sigma_b
    scaled = g * norm.weight.detach() * r
    expected = (scaled - scaled.mean(0) - z * (scaled * z).mean(0)) / sigma_b
    torch.testing.assert_close(step(norm, x, None, g).gx, expected, rtol=0, atol=1e-5)  # eps in the variance
