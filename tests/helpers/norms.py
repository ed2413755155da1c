"""Training steps of a norm, with their outputs, gradients and buffers."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from normplugins.norms import build_norm, has_statistics, known_norms, sees_sentence

GOLDEN = Path(__file__).parents[1] / "golden"
NORMS = tuple(known_norms())
BATCH_NORMS = tuple(name for name in NORMS if has_statistics(name))
TOKEN_NORMS = tuple(name for name in NORMS if not (has_statistics(name) or sees_sentence(name)))
PADDING_FREE = tuple(name for name in BATCH_NORMS if name not in ("bn_released", "pn"))  # those two count padding
SWITCHES = tuple(name for name, value in asdict(build_norm("pn", 4).settings).items() if value is True)
"""The settings between ``pn_alg2`` and ``pn``, which has all of them on."""

_WINDOW = {"window": 2, "warmup_updates": 2, "ratio_from": 0}
SHORT: dict[str, dict[str, int]] = {
    "pn": {"warmup_updates": 2},
    "un": _WINDOW,
    "mabn": _WINDOW,
    "renorm": {"warmup_updates": 1, "r_max_updates": 3, "d_max_updates": 3},
}
"""Settings with which a norm's warmup ends within a few updates."""


@dataclass
class Step:
    y: Tensor
    gx: Tensor
    gw: Tensor | None
    gb: Tensor | None


def step(norm: nn.Module, x: Tensor, mask: Tensor | None, g: Tensor) -> Step:
    """One forward and backward with dL/dy = g."""
    norm.zero_grad()
    x = x.detach().clone().requires_grad_()
    y = norm(x, mask)
    y.backward(g)
    assert x.grad is not None
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    return Step(
        y.detach(), x.grad, None if weight is None else weight.grad.clone(), None if bias is None else bias.grad.clone()
    )


def set_affine(norm: nn.Module, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        norm.weight.copy_(weight)
        norm.bias.copy_(bias)


def random_affine(norm: nn.Module, seed: int = 7) -> nn.Module:
    """Give the norm random weights and biases in [0.5, 1.5); a norm without parameters is unchanged."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in norm.parameters():
            p.copy_(torch.rand(p.shape, generator=generator, dtype=torch.float64) + 0.5)
    return norm


def padding(lengths: list[int], extra: int = 0) -> Tensor:
    """The padding mask (B, T) of sentences with these lengths; T is the longest and ``extra``."""
    return torch.arange(max(lengths) + extra) >= torch.tensor(lengths).unsqueeze(1)


def buffers(norm: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in norm.named_buffers()}


def replay(norm: nn.Module, vectors: "np.lib.npyio.NpzFile", names: tuple[str, ...]) -> None:
    """Repeat recorded training steps; check outputs, gradients and the buffers ``names``, and then evaluation."""

    def close(got: Tensor, want: "np.ndarray", what: str) -> None:
        torch.testing.assert_close(
            got.cpu(), torch.from_numpy(want), rtol=0, atol=1e-9, msg=lambda m: f"step {s}, {what}: {m}"
        )

    norm.double()
    device = next(norm.parameters()).device
    set_affine(norm, torch.from_numpy(vectors["weight"]), torch.from_numpy(vectors["bias"]))
    recorded = {key: vectors[key] for key in ("x", "g", "mask", "y", "gx", "gw", "gb", *names)}
    padded, mask = bool(vectors["meta_padded"]), None
    for s in range(len(recorded["x"])):
        mask = torch.from_numpy(recorded["mask"][s]).to(device) if padded else None
        x, g = (torch.from_numpy(recorded[name][s]).to(device) for name in ("x", "g"))
        done = step(norm, x, mask, g)
        for what in ("y", "gx", "gw", "gb"):
            close(getattr(done, what), recorded[what][s], what)
        for name in names:
            close(norm.get_buffer(name), recorded[name][s], name)
    norm.eval()
    close(norm(x, mask).detach(), vectors["y_eval"], "evaluation")
