"""Norms on Triton kernels, compared with the same norms in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normplugins.norms import NormConfig, build_norm
from tests.helpers.norms import Step, buffers, random_affine, step

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def kernels(name: str, dim: int, **settings: object) -> nn.Module:
    """The norm on Triton kernels, with random weight and bias."""
    return plain(name, dim, kernels="triton", **settings)


def plain(name: str, dim: int, **settings: object) -> nn.Module:
    """The same norm in plain PyTorch."""
    config = NormConfig(**({"name": name, "kernels": "plain"} | settings))  # type: ignore[arg-type]
    return random_affine(build_norm(config, dim)).to(DEVICE)


def batch(
    times: int, sentences: int, dim: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """x (T, B, C) with a nonzero mean, dL/dy (T, B, C), and a padding mask (B, T) with 30 % padding."""
    generator = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(times, sentences, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(sentences, times, generator=generator) < 0.3
    return (2 * x + 0.5).to(DEVICE, dtype), g.to(DEVICE, dtype), mask.to(DEVICE)


def results(done: Step, norm: nn.Module) -> dict[str, Tensor]:
    """The results of a step, and the buffers after it, by name."""
    outcomes = {"y": done.y, "dL/dx": done.gx, "dL/dweight": done.gw, "dL/dbias": done.gb}
    return {name: value for name, value in outcomes.items() if value is not None} | buffers(norm)


def assert_same(ours: nn.Module, reference: nn.Module, x: Tensor, mask: Tensor | None, g: Tensor) -> None:
    """One step of both, in float64: outputs, gradients and buffers agree."""
    got, want = results(step(ours, x, mask, g), ours), results(step(reference, x, mask, g), reference)
    assert got.keys() == want.keys()
    for what, value in want.items():
        torch.testing.assert_close(
            got[what], value, rtol=1e-9, atol=1e-9, msg=lambda said, what=what: f"{what}: {said}"
        )
