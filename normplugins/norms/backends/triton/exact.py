"""The autograd function of norms with an exact backward, through the batch's statistics or with fixed ones; RMSNorm.

With x^ = z / psi, of N tokens of all processes (arXiv 1502.03167; PN-V, arXiv 2003.07845, has no shift):

    dL/dweight = sum g x^      dL/dbias = sum g      nu = mean(weight g x^)      shift = mean(weight g)
    dL/dz = (weight g - nu x^ - shift) / psi

nu and shift depend on all tokens, so the backward takes two passes, one over g and x and one over g, x and dL/dx:
5 N C e bytes. With fixed statistics, or statistics of each token, both are 0 and one pass is enough: 3 N C e.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from normplugins.norms.backends.dispatch import register_forward
from normplugins.norms.backends.triton.channelwise import run_backward, run_forward
from normplugins.norms.backends.triton.residual import Drawn, Gradients, Source, normalized
from normplugins.norms.backends.triton.tiles import (
    ADDING,
    BACKWARD_THREADS,
    COUNTS,
    TYPES,
    WIDEST,
    Channels,
    Tokens,
    add_up,
    on,
)
from normplugins.norms.deferred_residual import DeferredResidual, materialize
from normplugins.norms.distributed import sum_over_processes
from normplugins.norms.rms_norm import RMSNorm


class Exact(torch.autograd.Function):
    """y = weight z / sqrt(psi2 + eps) + bias for contiguous x, z = x - mean if there is a mean.

    With an update the input is x + dropout(update); ``source`` reads it, whether the sum is computed already or not.
    ``count`` is the number of tokens (scalar) in psi2 and the mean, or None if they are fixed; with ``synchronizes``
    these are the tokens of all processes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        update: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        mean: Tensor | None,
        psi2: Tensor | None,
        count: Tensor | None,
        synchronizes: bool,
        source: Source,
        tokens: Tokens,
        channels: Channels,
    ) -> tuple[Tensor, Tensor | None]:
        """Return y, of x's dtype, and the sum if there is an update."""
        y = torch.empty_like(x)
        run_forward(channels, tokens, source, y, weight, bias, psi2, mean=mean)
        if count is None and any(ctx.needs_input_grad):  # the backward needs the values before later updates
            mean, psi2 = (None if each is None else each.clone() for each in (mean, psi2))
        ctx.save_for_backward(source.value, weight, bias, mean, psi2, count, source.drawn.seed)
        ctx.tokens, ctx.channels, ctx.synchronizes = tokens, channels, synchronizes
        ctx.dropped = source.drawn.dropped
        ctx.set_materialize_grads(False)  # post-norm the sum has no other gradient
        return y, None if update is None else source.value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, arriving: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return dL/dx, dL/dupdate, dL/dweight and dL/dbias from dL/dy and the other gradient of the sum."""
        x, weight, bias, mean, psi2, count, seed = ctx.saved_tensors
        channels, tokens, g = ctx.channels, ctx.tokens, torch.zeros_like(x) if g is None else g.contiguous()
        wanted = Gradients.of(x, arriving, Drawn(seed, ctx.dropped))
        sums = channels.table(x, tokens, 2, BACKWARD_THREADS)
        grads = torch.empty_like(weight), None if bias is None else torch.empty_like(bias)
        means = None if count is None else channels.empty(x, 1 if mean is None else 2, channels.dim)
        known = wanted if count is None else Gradients()
        run_backward(channels, tokens, g, x, known, weight, psi2, psi2, mean=mean, sums=sums)
        with on(x):
            _end_backward[(triton.cdiv(channels.dim, ADDING["COLUMNS"]),)](
                sums, *grads, weight, psi2, means, count, sums.size(1),
                channels.eps, TYPES[channels.dtype], channels.dim, mean is not None, **ADDING,
            )  # fmt: skip
        if means is not None:
            nu, *shift = sum_over_processes(means) if ctx.synchronizes else means
            shift = shift[0] if shift else None
            run_backward(channels, tokens, g, x, wanted, weight, psi2, psi2, mean=mean, nu=nu, shift=shift)
        return *wanted.of_parts(ctx.needs_input_grad[1]), *grads, None, None, None, None, None, None, None


@triton.jit(do_not_specialize=COUNTS)
def _end_backward(
    sums,  # (2, P, C): of g z and of g
    grad_weight,  # (C,)
    grad_bias,  # (C,) or None
    weight,
    psi2,  # (C,) or None
    means,  # (1 or 2, C) takes nu and, with CENTRED, shift; or None
    count,  # scalar, or None with means
    programs,
    EPS: tl.constexpr,
    T: tl.constexpr,
    C: tl.constexpr,
    CENTRED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """dL/dweight, dL/dbias, nu and shift."""
    channels = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channels < C
    of_weight = add_up(sums, channels, inside, programs, C, ROWS, COLUMNS)
    if psi2 is not None:
        of_weight *= tl.rsqrt(tl.load(psi2 + channels, mask=inside, other=1.0).to(T) + EPS)
    tl.store(grad_weight + channels, of_weight.to(grad_weight.dtype.element_ty), mask=inside)
    if grad_bias is not None:
        of_bias = add_up(sums + programs * C, channels, inside, programs, C, ROWS, COLUMNS)
        tl.store(grad_bias + channels, of_bias.to(grad_bias.dtype.element_ty), mask=inside)
    if means is not None:
        mean = tl.load(weight + channels, mask=inside, other=0.0).to(T) / tl.maximum(tl.load(count), 1.0)
        tl.store(means + channels, mean * of_weight, mask=inside)
        if CENTRED:
            tl.store(means + C + channels, mean * of_bias, mask=inside)


@register_forward("triton", RMSNorm)
def rms_norm(norm: RMSNorm, x: Tensor | DeferredResidual, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """RMSNorm of x (..., C): to the kernels a group scaling without psi, with a channel group in each tile.

    It moves 2 N C e bytes forward and 3 N C e backward, in 3 launches.
    """
    channels = Channels.of(x, norm.eps, groups=norm.groups)
    if channels.tiles.columns > WIDEST:
        return norm.plain(materialize(x))
    source = Source.of(x)
    tokens = Tokens.of(source.x.view(-1, channels.dim), None, norm.weight.numel())
    inputs = source.x, source.update, norm.weight, None
    return normalized(x, *Exact.apply(*inputs, None, None, None, False, source, tokens, channels))
