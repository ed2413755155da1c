"""PN with the passes of the released code, as a speed baseline. It computes the same numbers as our ``pn``.

Autograd differentiates the group scaling operation by operation. The real tokens are then selected into a tensor of
their own for the statistics, and the batch is copied to (B, C, T). There the normalization, the affine map and each
part of the backward are element-wise passes over the whole batch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

DIMS = (0, 2)  # axes of (B, C, T) over which the mean of a channel is taken


def _each(channels: Tensor) -> Tensor:
    """Reshape (C,) to broadcast over (B, C, T)."""
    return channels.view(1, -1, 1)


class _Function(torch.autograd.Function):
    """The released forward and backward over x (B, C, T); ``square`` (C,) is the batch's quadratic mean."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, square: Tensor, norm: "ReleasedPowerNorm") -> Tensor:
        warm = norm.num_updates > norm.warmup_updates
        divisor = norm.running_phi if warm else square
        normalized = x / torch.sqrt(_each(divisor) + norm.eps)
        if norm.num_updates < norm.warmup_updates:
            norm.running_phi.mul_((norm.num_updates - 1) / norm.num_updates).add_(square / norm.num_updates)
        norm.running_phi.mul_(norm.alpha_fwd).add_(square * (1 - norm.alpha_fwd))
        ctx.save_for_backward(normalized, weight, square)
        ctx.norm = norm
        return _each(weight) * normalized + _each(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        normalized, weight, square = ctx.saved_tensors
        norm = ctx.norm
        corrected = g * _each(weight) - _each((1 - norm.alpha_bkw) * norm.ema_gz) * normalized
        norm.ema_gz.add_((corrected * normalized).mean(DIMS))
        grad = corrected / torch.sqrt(_each(square) + norm.eps)
        return grad, (g * normalized).sum(DIMS), g.sum(DIMS), None, None


class ReleasedPowerNorm(nn.Module):
    """Released PN for x (T, B, C) with ``dim`` channels; its statistics have the same names as in our ``pn``."""

    running_phi: Tensor
    ema_gz: Tensor
    num_updates: int

    def __init__(
        self,
        dim: int,
        groups: int = 4,
        warmup_updates: int = 8000,
        eps: float = 1e-5,
        alpha_fwd: float = 0.9,
        alpha_bkw: float = 0.9,
    ) -> None:
        super().__init__()
        self.dim, self.groups, self.warmup_updates, self.eps = dim, groups, warmup_updates, eps
        self.alpha_fwd, self.alpha_bkw = alpha_fwd, alpha_bkw
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_phi", torch.ones(dim))
        self.register_buffer("ema_gz", torch.zeros(dim))
        self.num_updates = 0

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Normalize x (T, B, C); padding_mask (B, T) is True at padding. At evaluation, divide by the running psi."""
        grouped = x.view(*x.shape[:2], self.groups, -1)
        scaled = (grouped / torch.sqrt((grouped * grouped).mean(-1, keepdim=True) + self.eps)).view(x.shape)
        if not self.training:
            return self.weight * (scaled / torch.sqrt(self.running_phi + self.eps)) + self.bias
        real = scaled.clone() if padding_mask is None else scaled[~padding_mask.t()]
        with torch.no_grad():
            real = real.reshape(-1, self.dim)
            square = (real * real).mean(0)
        self.num_updates += 1
        y: Tensor = _Function.apply(scaled.permute(1, 2, 0).contiguous(), self.weight, self.bias, square, self)
        return y.permute(2, 0, 1).contiguous()
