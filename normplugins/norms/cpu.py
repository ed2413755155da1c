"""Norms in training on a CPU, in as few passes over memory as PyTorch's own operators allow, and nothing to compile.

Each function here is the training forward of a norm whose equations, and plain code, are in the norm's own file; it
takes the norm, x and the padding mask, and counts the batch as the plain code does. What makes the difference:

- Column sums come from PyTorch's BatchNorm backward in evaluation mode, with a running mean of 0 and variance of 1: one
  call, one pass, gives sum(g z) and sum(g), and with z for g sum(z^2). It adds up in the order of LayerNorm's own
  backward, with the same rounding error (relative 5e-6 of 4,096 tokens).
- Each gradient is written by hand, and no product is kept that the backward can make again.
- Rows of padding are looked up, which on a CPU makes nobody wait, and set alone; ``torch.where`` passes over all.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normplugins.norms.statistics import token_rows

if TYPE_CHECKING:
    from normplugins.norms.batch_norm import BatchNorm
    from normplugins.norms.power_norm import PowerNorm
    from normplugins.norms.power_norm_v import PowerNormV
    from normplugins.norms.rms_norm import RMSNorm
    from normplugins.norms.statistics import RunningNorm


def power_norm(norm: "PowerNorm", x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """PN in training, every switch of it; x (T, B, C) or (N, C), padding_mask (B, T) or (N,)."""
    return _apply(_PowerNorm, norm, x, *_rows(x, padding_mask, norm.dim))


def power_norm_v(norm: "PowerNormV", x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """PN-V in training; x (T, B, C) or (N, C), padding_mask (B, T) or (N,). Statistics of several processes: plain."""
    if norm.synchronised:
        return norm.plain(x, padding_mask)
    return _apply(_PowerNormV, norm, x, *_rows(x, padding_mask, norm.dim))


def batch_norm(norm: "BatchNorm", x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """BN in training; x (T, B, C) or (N, C), padding_mask (B, T) or (N,).

    What PyTorch's BN has not is plain: statistics of several processes, and the switches of ``bn_released``.
    """
    if norm.synchronised or norm.group_scaling or norm.padding_filled:
        return norm.plain(x, padding_mask)
    rows, real = token_rows(x, padding_mask, norm.dim)
    tokens = None if real is None or real.all() else real.view(-1).nonzero().view(-1)
    if len(rows if tokens is None else tokens) < 2:  # PyTorch's refuses none, and rounds one's variance
        return norm.plain(x, padding_mask)
    return _apply(_BatchNorm, norm, x, rows, tokens)


def rms_norm(norm: "RMSNorm", x: Tensor, padding_mask: Tensor | None) -> Tensor:  # noqa: ARG001
    """RMSNorm in training; x (..., C)."""
    rows = x.reshape(-1, x.size(-1)).to(torch.promote_types(x.dtype, torch.float32))
    y: Tensor = _RMSNorm.apply(rows, norm.weight.to(rows.dtype), norm.eps)  # type: ignore[no-untyped-call]
    return y.view(x.shape).to(x.dtype)


def _rows(x: Tensor, padding_mask: Tensor | None, dim: int) -> tuple[Tensor, Tensor | None]:
    """x as rows (N, C), and the indices of those that are padding; None where there are none."""
    rows, real = token_rows(x, padding_mask, dim)
    if real is None:
        return rows, None
    padding = (~real).view(-1).nonzero().view(-1)
    return rows, padding if len(padding) else None


def _apply(
    function: type[torch.autograd.Function], norm: "RunningNorm", x: Tensor, rows: Tensor, which: Tensor | None
) -> Tensor:
    """Call a function of x's rows, weight, bias, the rows that are padding (or, of BN, that are not), and the norm."""
    y: Tensor = function.apply(rows, norm.weight.to(rows.dtype), norm.bias.to(rows.dtype), which, norm)  # type: ignore[no-untyped-call]
    return y.view(x.shape).to(x.dtype)


def _count(rows: Tensor, padding: Tensor | None) -> Tensor:
    """Count the rows that are no padding, as a scalar tensor of their dtype."""
    return rows.new_full((), len(rows) - (0 if padding is None else len(padding)))


def _column_sums(g: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """sum(g z) and sum(g) (C,) over rows (N, C)."""
    zero, one = _constants(z.size(1), z.dtype)
    which = [False, True, True]
    _, products, plain = torch.ops.aten.native_batch_norm_backward(g, z, one, zero, one, None, None, False, 0.0, which)
    return products, plain


@cache
def _constants(dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.zeros(dim, dtype=dtype), torch.ones(dim, dtype=dtype)


def _without(rows: Tensor, padding: Tensor | None) -> Tensor:
    """Copy rows (N, C) with zeros in those of padding, if there are any."""
    return rows if padding is None else rows.index_fill(0, padding, 0)


def _zero_(rows: Tensor, padding: Tensor | None) -> Tensor:
    """Put zeros into the rows of padding, in place."""
    return rows if padding is None else rows.index_fill_(0, padding, 0)


def _scale(rows: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Group scaling: z = r x, and r (N, groups, 1) = 1 / sqrt(mean of a group's x^2 + eps)."""
    grouped = rows.view(rows.size(0), groups, -1)
    norms = torch.linalg.vector_norm(grouped, dim=-1, keepdim=True)
    r = norms.square_().div_(grouped.size(-1)).add_(eps).rsqrt_()
    return (grouped * r).view_as(rows), r


def _scale_backward(u: Tensor, rows: Tensor, r: Tensor) -> Tensor:
    """dL/dx = r (u - z mean(u z)), group by group, for u = dL/dz and x (N, C) with z = r x.

    LayerNorm's backward with a mean of 0 takes mean(u) away besides, all in one pass; that is put back.
    """
    grouped = u.view(r.size(0), r.size(1), -1)
    without_mean, _, _ = torch.ops.aten.native_layer_norm_backward(
        grouped, rows.view_as(grouped), grouped.shape[2:], torch.zeros_like(r), r, None, None, [True, False, False]
    )
    gradient: Tensor = without_mean.add_(grouped.mean(-1, keepdim=True).mul_(r)).view_as(u)
    return gradient


class _PowerNorm(torch.autograd.Function):
    """The equations of power_norm.py. Saved: z, which is x or x scaled by groups; with that, x and its r."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, padding: Tensor | None, norm: "PowerNorm"
    ) -> Tensor:
        counted = None if norm.padding_in_backward else padding
        z = _without(rows, counted)
        scaling: tuple[Tensor | None, ...] = (None, None)
        if norm.group_scaling:
            unscaled = z
            z, r = _scale(z, norm.groups, norm.eps)
            scaling = (unscaled, r)
        real_z = z if counted is padding else _without(z, padding)
        tokens, _ = _column_sums(real_z, real_z)
        positions = tokens  # sums of z^2 over the positions that the backward counts
        if padding is not None and counted is None:
            positions = tokens + z.index_select(0, padding).square_().sum(0)
        real = _count(z, padding)
        scale, scale_backward = norm.take_batch(real, tokens / real.clamp(min=1))
        ctx.save_for_backward(z, *scaling, weight, scale, scale_backward, positions, counted)
        ctx.norm = norm
        return _zero_(torch.addcmul(bias, z, weight * scale), counted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        z, unscaled, r, weight, scale, scale_backward, squares, padding = ctx.saved_tensors
        norm, g = ctx.norm, _without(g.contiguous(), padding)
        positions = _count(z, padding)
        products, grad_bias = _column_sums(g, z)
        grad_weight = products * scale
        nu_scale = norm.nu.to(z.dtype) * scale
        projection = (weight * grad_weight).addcmul_(nu_scale, squares * scale, value=-1).div_(positions.clamp(min=1))
        norm.count_backward(positions, projection)
        grad = (z * nu_scale.mul_(scale_backward).neg_()).addcmul_(g, weight * scale_backward)
        if r is not None:
            grad = _scale_backward(grad, unscaled, r)
        return grad, grad_weight, grad_bias, None, None


class _PowerNormV(torch.autograd.Function):
    """The equations of power_norm_v.py; dL/dx = weight psi^-1 g - x psi^-3 weight mean(g x)."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, padding: Tensor | None, norm: "PowerNormV"
    ) -> Tensor:
        z = _without(rows, padding)
        count = _count(z, padding)
        phi = _column_sums(z, z)[0] / count.clamp(min=1)
        norm.count_batch(count, phi)
        scale = torch.rsqrt(phi + norm.eps)
        ctx.save_for_backward(z, weight, scale, count, padding)
        return _zero_(torch.addcmul(bias, z, weight * scale), padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, scale, count, padding = ctx.saved_tensors
        g = _without(g.contiguous(), padding)
        products, grad_bias = _column_sums(g, z)
        grad = z * (-weight * scale**3 * products / count.clamp(min=1))
        return grad.addcmul_(g, weight * scale), products * scale, grad_bias, None, None


class _BatchNorm(torch.autograd.Function):
    """The equations of batch_norm.py, by PyTorch's own BatchNorm where no row is padding, and of the others alone."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, tokens: Tensor | None, norm: "BatchNorm"
    ) -> Tensor:
        z = rows if tokens is None else rows.index_select(0, tokens)
        y, mean, invstd = torch.native_batch_norm(z, weight, bias, None, None, True, 0.0, norm.eps)
        count = _count(z, None)
        norm.count_batch(count, count, mean, (invstd.square().reciprocal_() - norm.eps).clamp_(min=0))
        ctx.save_for_backward(z, weight, mean, invstd, tokens)
        ctx.norm, ctx.rows = norm, rows.size(0)
        return y if tokens is None else rows.new_zeros(rows.shape).index_copy_(0, tokens, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, mean, invstd, tokens = ctx.saved_tensors
        g = g.contiguous() if tokens is None else g.index_select(0, tokens)
        grad, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            g, z, weight, None, None, mean, invstd, True, ctx.norm.eps, [True, True, True]
        )
        if tokens is not None:
            grad = g.new_zeros(ctx.rows, g.size(1)).index_copy_(0, tokens, grad)
        return grad, grad_weight, grad_bias, None, None


class _RMSNorm(torch.autograd.Function):
    """y = weight z with z = x / sqrt(mean(x^2) + eps): group scaling with one group."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, eps: float) -> Tensor:
        z, r = _scale(rows, 1, eps)
        ctx.save_for_backward(rows, z, r, weight)
        return z * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        rows, z, r, weight = ctx.saved_tensors
        grad_weight, _ = _column_sums(g.contiguous(), z)
        return _scale_backward(g * weight, rows, r), grad_weight, None
