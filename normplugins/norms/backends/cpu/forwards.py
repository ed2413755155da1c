"""The training forwards of ``pn``, ``pn_alg2``, ``pnv``, ``bn`` and ``rms`` on a CPU, each in as few passes as
possible.

The equations and the plain code are in each norm's file, and ``kernels.py`` documents the passes. After its warmup PN
uses the statistics of the previous step in both directions: one pass computes the output and the new statistics, and
one pass computes the gradient and the sums for the next step. PN during its warmup, PN-V and BN compute sums first.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normplugins.norms.backends.cpu import kernels
from normplugins.norms.batch_norm import BatchNorm
from normplugins.norms.power_norm import PowerNorm
from normplugins.norms.power_norm_v import PowerNormV
from normplugins.norms.rms_norm import RMSNorm
from normplugins.norms.statistics import token_rows


def power_norm(norm: PowerNorm, x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """PN in training with any of its switches; x (T, B, C) or (N, C), padding_mask (B, T) or (N,)."""
    return _apply(_PowerNorm, norm, x, padding_mask)


def power_norm_v(norm: PowerNormV, x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """PN-V in training; x (T, B, C) or (N, C), padding_mask (B, T) or (N,). Synchronized statistics use plain code."""
    return norm.plain(x, padding_mask) if norm.synchronizes else _apply(_PowerNormV, norm, x, padding_mask)


def batch_norm(norm: BatchNorm, x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """BN in training; x (T, B, C) or (N, C), padding_mask (B, T) or (N,).

    Synchronized statistics, group scaling and filled padding use plain code.
    """
    if norm.synchronizes or norm.settings.group_scaling or norm.settings.padding_filled:
        return norm.plain(x, padding_mask)
    return _apply(_BatchNorm, norm, x, padding_mask)


def rms_norm(norm: RMSNorm, x: Tensor, padding_mask: Tensor | None) -> Tensor:  # noqa: ARG001
    """RMSNorm in training; x (..., C)."""
    rows = x.reshape(-1, x.size(-1)).to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    y: Tensor = _RMSNorm.apply(rows, norm.weight.to(rows.dtype), norm.eps, norm.groups)  # type: ignore[no-untyped-call]
    return y.view(x.shape).to(x.dtype)


def _apply(
    function: type[torch.autograd.Function],
    norm: PowerNorm | PowerNormV | BatchNorm,
    x: Tensor,
    padding_mask: Tensor | None,
) -> Tensor:
    rows, real = token_rows(x, padding_mask, norm.dim)
    padding = None if real is None else ~real.view(-1)
    tokens = len(rows) - (0 if padding is None else int(padding.sum()))  # on a CPU this needs no wait
    weight, bias = norm.weight.to(rows.dtype), norm.bias.to(rows.dtype)
    y: Tensor = function.apply(rows.contiguous(), weight, bias, padding, tokens, norm)  # type: ignore[no-untyped-call]
    return y.view(x.shape).to(x.dtype)


class _PowerNorm(torch.autograd.Function):
    """The equations of power_norm.py, for z = x or group-scaled x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: Tensor | None, tokens: int, norm: PowerNorm
    ) -> Tensor:
        inverse = x.new_empty(len(x), norm.settings.groups) if norm.settings.group_scaling else None
        run = partial(
            kernels.forward,
            x,
            inverse=inverse,
            eps=norm.eps,
            padding_as_tokens=norm.settings.padding_in_backward,
            bias=bias,
        )
        counts_padding = norm.settings.padding_in_backward and tokens < len(x)
        gather = ("squares", "padding_squares") if counts_padding else ("squares",)
        y, known = torch.empty_like(x), norm.known_scale()
        sums = (
            run(None, padding, gather) if known is None else run(y, padding, gather, scale=weight * known.to(x.dtype))
        )
        scale, scale_backward = norm.update_quadratic_mean(x.new_full((), tokens), sums[0] / max(tokens, 1), known)
        if known is None:
            run(y, padding, scale=weight * scale)
        squares = sums.sum(0) if counts_padding else sums[0]  # over the positions in the means of the backward
        ctx.save_for_backward(x, weight, scale, scale_backward, squares, inverse, padding)
        ctx.norm, ctx.positions = norm, len(x) if norm.settings.padding_in_backward else tokens
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, scale_backward, squares, inverse, padding = ctx.saved_tensors
        norm = ctx.norm
        nu_scale = norm.nu.to(x.dtype) * scale
        dx = torch.empty_like(x)
        products, grad_bias = kernels.backward(
            g.contiguous(), x, dx, padding, ("products", "sums"),
            of_g=weight * scale_backward, of_z=-nu_scale * scale_backward,
            inverse=inverse, padding_as_tokens=norm.settings.padding_in_backward,
        )  # fmt: skip
        grad_weight = products * scale
        projection = (weight * grad_weight - nu_scale * squares * scale) / max(ctx.positions, 1)
        norm.update_nu(x.new_full((), ctx.positions), projection)
        return dx, grad_weight, grad_bias, None, None, None


class _PowerNormV(torch.autograd.Function):
    """The equations of power_norm_v.py, for z = x or group-scaled x.

    dL/dz = weight psi^-1 g - z psi^-3 weight mean(g z).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: Tensor | None, tokens: int, norm: PowerNormV
    ) -> Tensor:
        inverse = x.new_empty(len(x), norm.settings.groups) if norm.settings.group_scaling else None
        run = partial(kernels.forward, x, inverse=inverse, eps=norm.eps)
        phi = run(None, padding, ("squares",))[0] / max(tokens, 1)
        norm.update_running_stats(x.new_full((), tokens), phi)
        scale = torch.rsqrt(phi + norm.eps)
        ctx.save_for_backward(x, weight, scale, inverse, padding)
        ctx.tokens = tokens
        y = torch.empty_like(x)
        run(y, padding, scale=weight * scale, bias=bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, inverse, padding = ctx.saved_tensors
        g, dx = g.contiguous(), torch.empty_like(x)
        products, grad_bias = kernels.backward(g, x, None, padding, ("products", "sums"), inverse=inverse)
        of_z = -weight * scale**3 * products / max(ctx.tokens, 1)
        kernels.backward(g, x, dx, padding, of_g=weight * scale, of_z=of_z, inverse=inverse)
        return dx, products * scale, grad_bias, None, None, None


class _BatchNorm(torch.autograd.Function):
    """The equations of batch_norm.py; dL/dx = weight (g - mean(g) - z mean(g z) / sigma^2) / sigma, z = x - mu."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: Tensor | None, tokens: int, norm: BatchNorm
    ) -> Tensor:
        count = x.new_full((), tokens)
        # sums of differences from one of the tokens: in sums of x itself a large mean would cost digits of the variance
        origin = x[0 if padding is None else int((~padding).byte().argmax())]
        offset, squares = kernels.forward(x, None, padding, ("sums", "squares"), centre=origin) / max(tokens, 1)
        mean = origin + offset if tokens else torch.zeros_like(bias)
        var = (squares - offset.square()).clamp_(min=0)
        norm.update_running_stats(count, count, mean, var)
        scale = torch.rsqrt(var + norm.eps)
        ctx.save_for_backward(x, weight, mean, scale, padding)
        ctx.tokens = tokens
        y = torch.empty_like(x)
        kernels.forward(x, y, padding, centre=mean, scale=weight * scale, bias=bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, padding = ctx.saved_tensors
        g, dx, of_g, tokens = g.contiguous(), torch.empty_like(x), weight * scale, max(ctx.tokens, 1)
        products, grad_bias = kernels.backward(g, x, None, padding, ("products", "sums"), centre=mean)
        kernels.backward(
            g, x, dx, padding, centre=mean,
            of_g=of_g, of_z=-of_g * scale.square() * products / tokens, constant=-of_g * grad_bias / tokens,
        )  # fmt: skip
        return dx, products * scale, grad_bias, None, None, None


class _RMSNorm(torch.autograd.Function):
    """y = weight z with z = x / sqrt(mean(x^2) + eps), which is group scaling alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, groups: int) -> Tensor:
        inverse, y = x.new_empty(len(x), groups), torch.empty_like(x)
        kernels.forward(x, y, None, scale=weight, inverse=inverse, eps=eps)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        dx = torch.empty_like(x)
        sums = kernels.backward(g.contiguous(), x, dx, None, ("products",), of_g=weight, inverse=inverse)
        return dx, sums[0], None, None


FORWARDS = {PowerNorm: power_norm, PowerNormV: power_norm_v, BatchNorm: batch_norm, RMSNorm: rms_norm}
