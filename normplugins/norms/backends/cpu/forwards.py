"""The training forwards of ``pn``, ``pn_alg2``, ``pnv``, ``bn`` and ``rms`` on a CPU, each in as few passes as
possible.

The equations and the plain code are in each norm's file, and ``kernels.py`` documents the passes. After its warmup PN
uses the statistics of the previous step in both directions: one pass computes the output and the new statistics, and
one pass computes the gradient and the sums for the next step. PN during its warmup, PN-V and BN compute sums first.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normplugins.norms.backends.cpu.kernels import run_pass
from normplugins.norms.batch_norm import BatchNorm
from normplugins.norms.power_norm import PowerNorm
from normplugins.norms.power_norm_v import PowerNormV
from normplugins.norms.rms_norm import RMSNorm
from normplugins.norms.tokens import token_rows

Gradients = tuple[Tensor, Tensor, Tensor | None]
Done = tuple[Tensor, Callable[..., Gradients], tuple[Tensor | None, ...]]
"""y; a function (g, *tensors) that returns dL/dx, dL/dweight and dL/dbias; and the tensors, which autograd saves"""


def forward(
    compute: Callable[..., Done],
    norm: PowerNorm | PowerNormV | BatchNorm | RMSNorm,
    x: Tensor,
    padding_mask: Tensor | None = None,
) -> Tensor:
    """Normalize x (T, B, C) or (N, C) in training with ``compute``; padding_mask (B, T) or (N,). RMSNorm: x (..., C).

    PN-V and BN with synchronized statistics fall back to the plain code.
    """
    if isinstance(norm, PowerNormV | BatchNorm) and norm.synchronizes:
        return norm.plain(x, padding_mask)
    alone = isinstance(norm, RMSNorm)
    rows, real = token_rows(x, None if alone else padding_mask, norm.dim, flat=not alone)
    padding = None if real is None else ~real.view(-1)
    tokens = len(rows) - (0 if padding is None else int(padding.sum()))  # int() does not wait on a CPU
    bias = None if alone else norm.bias.to(rows.dtype)
    y: Tensor = _Function.apply(  # type: ignore[no-untyped-call]
        compute, rows.contiguous(), norm.weight.to(rows.dtype), bias, padding, tokens, norm
    )
    return y.view(x.shape).to(x.dtype)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Done], *arguments: Any) -> Tensor:
        y, ctx.gradients, tensors = compute(*arguments)
        ctx.save_for_backward(*tensors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.gradients(g.contiguous(), *ctx.saved_tensors), None, None, None


def _power_norm(x: Tensor, weight: Tensor, bias: Tensor, padding: Tensor | None, tokens: int, norm: PowerNorm) -> Done:
    """The equations of power_norm.py, for z = x or group-scaled x."""
    as_tokens = norm.padding_in_backward
    inverse = x.new_empty(len(x), norm.groups) if norm.group_scaling else None
    run = partial(
        run_pass, "forward", x, padding, inverse=inverse, eps=norm.eps, padding_as_tokens=as_tokens, bias=bias
    )
    counts_padding = as_tokens and tokens < len(x)
    gather = ("squares", "padding_squares") if counts_padding else ("squares",)
    y, known = torch.empty_like(x), norm.scale_without_batch()
    sums = run(gather) if known is None else run(gather, y=y, scale=weight * known.to(x.dtype))
    scale, scale_backward = norm.update_quadratic_mean(x.new_full((), tokens), sums[0] / max(tokens, 1), known)
    if known is None:
        run(y=y, scale=weight * scale)
    squares = sums.sum(0) if counts_padding else sums[0]  # over the positions in the means of the backward
    positions = len(x) if as_tokens else tokens

    def gradients(g: Tensor, *saved: Any) -> Gradients:
        x, weight, scale, scale_backward, squares, inverse, padding = saved
        nu_scale = norm.nu.to(x.dtype) * scale
        dx = torch.empty_like(x)
        products, grad_bias = run_pass(
            "backward", x, padding, ("products", "sums"), g=g, dx=dx, of_g=weight * scale_backward,
            of_z=-nu_scale * scale_backward, inverse=inverse, padding_as_tokens=as_tokens,
        )  # fmt: skip
        grad_weight = products * scale
        projection = (weight * grad_weight - nu_scale * squares * scale) / max(positions, 1)
        norm.update_nu(x.new_full((), positions), projection)
        return dx, grad_weight, grad_bias

    return y, gradients, (x, weight, scale, scale_backward, squares, inverse, padding)


def _power_norm_v(
    x: Tensor, weight: Tensor, bias: Tensor, padding: Tensor | None, tokens: int, norm: PowerNormV
) -> Done:
    """The equations of power_norm_v.py: dL/dz = weight psi^-1 g - z psi^-3 weight mean(g z), z = (group-scaled) x."""
    inverse = x.new_empty(len(x), norm.groups) if norm.group_scaling else None
    run, y = partial(run_pass, "forward", x, padding, inverse=inverse, eps=norm.eps), torch.empty_like(x)
    phi = run(("squares",))[0] / max(tokens, 1)
    norm.update_running_stats(x.new_full((), tokens), phi)
    scale = torch.rsqrt(phi + norm.eps)
    run(y=y, scale=weight * scale, bias=bias)

    def gradients(
        g: Tensor, x: Tensor, weight: Tensor, scale: Tensor, inverse: Tensor | None, padding: Tensor | None
    ) -> Gradients:
        run, dx = partial(run_pass, "backward", x, padding, g=g, inverse=inverse), torch.empty_like(x)
        products, grad_bias = run(("products", "sums"))
        run(dx=dx, of_g=weight * scale, of_z=-weight * scale**3 * products / max(tokens, 1))
        return dx, products * scale, grad_bias

    return y, gradients, (x, weight, scale, inverse, padding)


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor, padding: Tensor | None, tokens: int, norm: BatchNorm) -> Done:
    """The equations of batch_norm.py; dL/dx = weight (g - mean(g) - z mean(g z) / sigma^2) / sigma, z = x - mu."""
    run, y, count = partial(run_pass, "forward", x, padding), torch.empty_like(x), x.new_full((), tokens)
    # sum the differences from the mean of a few tokens: with a large mean, sums of x would lose digits of the variance
    places = torch.arange(len(x)) if padding is None else (~padding).nonzero().squeeze(1)
    origin = x[places[:: max(1, len(places) // 16)]].mean(0) if len(places) else torch.zeros_like(bias)
    offset, squares = run(("sums", "squares"), centre=origin) / max(tokens, 1)
    mean = origin + offset if tokens else torch.zeros_like(bias)
    var = (squares - offset.square()).clamp_(min=0)
    norm.update_running_stats(count, count, mean, var)
    scale = torch.rsqrt(var + norm.eps)
    run(y=y, centre=mean, scale=weight * scale, bias=bias)

    def gradients(
        g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, padding: Tensor | None
    ) -> Gradients:
        run, dx = partial(run_pass, "backward", x, padding, g=g, centre=mean), torch.empty_like(x)
        products, grad_bias = run(("products", "sums"))
        of_g = weight * scale
        of_z = -of_g * scale.square() * products / max(tokens, 1)
        run(dx=dx, of_g=of_g, of_z=of_z, constant=-of_g * grad_bias / max(tokens, 1))
        return dx, products * scale, grad_bias

    return y, gradients, (x, weight, mean, scale, padding)


def _rms_norm(x: Tensor, weight: Tensor, _bias: None, _padding: None, _tokens: int, norm: RMSNorm) -> Done:
    """y = weight z with z = x / sqrt(mean(x^2) + eps), which is group scaling alone."""
    inverse, y = x.new_empty(len(x), norm.groups), torch.empty_like(x)
    run_pass("forward", x, None, y=y, scale=weight, inverse=inverse, eps=norm.eps)

    def gradients(g: Tensor, x: Tensor, weight: Tensor, inverse: Tensor) -> Gradients:
        dx = torch.empty_like(x)
        sums = run_pass("backward", x, None, ("products",), g=g, dx=dx, of_g=weight, inverse=inverse)
        return dx, sums[0], None

    return y, gradients, (x, weight, inverse)


FORWARDS = {
    PowerNorm: partial(forward, _power_norm),
    PowerNormV: partial(forward, _power_norm_v),
    BatchNorm: partial(forward, _batch_norm),
    RMSNorm: partial(forward, _rms_norm),
}
