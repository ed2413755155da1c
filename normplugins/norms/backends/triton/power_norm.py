"""PN on a GPU; ``norms/power_norm.py`` has the equations and the plain-PyTorch reference.

After the warmup the forward is one pass over x and the backward one over g and x, 2 N C e and 3 N C e bytes for
elements of e bytes; in the warmup the forward takes one more, 3 N C e. A second, small kernel reduces the sums and
updates the running statistics. A training step of a PN is 5 launches, without warmup 4, and the host waits for none.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from normplugins.norms.backends.dispatch import register_forward
from normplugins.norms.backends.triton.channelwise import run_backward, run_forward
from normplugins.norms.backends.triton.exact import Exact
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
    count_up,
    on,
)
from normplugins.norms.deferred_residual import DeferredResidual, materialize
from normplugins.norms.power_norm import PowerNorm
from normplugins.norms.statistics import recomputing


@register_forward("triton", PowerNorm)
def power_norm(norm: PowerNorm, x: Tensor | DeferredResidual, padding_mask: Tensor | None = None) -> Tensor:
    """PN of x (T, B, C) or (N, C) with padding_mask (B, T) or (N,)."""
    settings = norm.settings
    groups = settings.groups if settings.group_scaling else 0
    channels = Channels.of(x, norm.eps, groups, settings.padding_in_backward)
    if channels.tiles.columns > WIDEST:
        return norm.plain(materialize(x), padding_mask)
    source = Source.of(x)
    parameters, tokens = (norm.weight, norm.bias), Tokens.of(source.x, padding_mask, norm.dim)
    if norm.training:
        done = _PowerNorm.apply(source.x, source.update, *parameters, source, tokens, channels, norm)
    else:
        psi2 = norm.running_phi
        done = Exact.apply(source.x, source.update, *parameters, None, psi2, None, False, source, tokens, channels)
    return normalized(x, *done)


class _PowerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        update: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        source: Source,
        tokens: Tokens,
        channels: Channels,
        norm: PowerNorm,
    ) -> tuple[Tensor, Tensor | None]:
        y = torch.empty_like(x)
        count, psi2, batch = _train(norm, source, y, tokens, channels)
        psi2_backward = batch if norm.settings.batch_backward else psi2
        ctx.save_for_backward(source.value, weight, bias, psi2, psi2_backward, count, source.drawn.seed)
        ctx.norm, ctx.tokens, ctx.channels = norm, tokens, channels
        ctx.dropped = source.drawn.dropped
        ctx.set_materialize_grads(False)  # post-norm the sum has no other gradient
        return y, None if update is None else source.value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, arriving: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, psi2, psi2_backward, count, seed = ctx.saved_tensors
        norm, tokens, channels = ctx.norm, ctx.tokens, ctx.channels
        g = torch.zeros_like(x) if g is None else g.contiguous()
        wanted = Gradients.of(x, arriving, Drawn(seed, ctx.dropped))
        grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(bias)
        sums = channels.table(x, tokens, 3, BACKWARD_THREADS)
        nu_scale, new_weight = 1.0, 1 - norm.settings.alpha_bkw
        if norm.settings.unscaled_nu:
            nu_scale, new_weight = new_weight, nu_scale
        if norm.settings.padding_in_backward:
            count = None
        projection = None if norm.updates_immediately else channels.empty(x, norm.dim)
        run_backward(
            channels, tokens, g, x, wanted, weight, psi2, psi2_backward, nu=norm.ema_gz, nu_scale=nu_scale, sums=sums
        )
        with on(x):
            _end_backward[(triton.cdiv(norm.dim, ADDING["COLUMNS"]),)](
                sums, grad_weight, grad_bias, weight, psi2, norm.ema_gz, projection, count,
                tokens.count, sums.size(1), nu_scale, new_weight, norm.eps, TYPES[channels.dtype], norm.dim, **ADDING,
            )  # fmt: skip
        if projection is not None:
            positions = projection.new_full((), tokens.count) if count is None else count
            norm.update_nu(positions, projection)
        return *wanted.of_parts(ctx.needs_input_grad[1]), grad_weight, grad_bias, None, None, None, None


def _train(
    norm: PowerNorm, source: Source, y: Tensor, tokens: Tokens, channels: Channels
) -> tuple[Tensor, Tensor, Tensor]:
    """Write y and update psi^2; return the number of real tokens, the psi^2 (C,) that y divides by, and the batch's."""
    x = source.x
    local = norm.updates_immediately and not recomputing()
    given = _psi2(norm._scale, norm) if recomputing() and norm._scale is not None else None
    squares = channels.table(x, tokens, 1, source.threads)
    counts = None if tokens.padding is None else channels.empty(x, squares.size(1))
    count, (psi2, batch, scale) = channels.empty(x), channels.empty(x, 3, norm.dim)
    warmup: dict[str, Any] = {}
    if norm.settings.warmup_updates and given is None:
        before = torch.empty_like(norm.num_updates)
        warmup = {"warmup": norm.settings.warmup_updates, "updates": norm.num_updates, "updates_before": before}
    used = norm.running_phi if given is None else given
    run_forward(channels, tokens, source, y, norm.weight, norm.bias, used, squares=squares, counts=counts, **warmup)
    with on(x):
        _end_forward[(triton.cdiv(norm.dim, ADDING["COLUMNS"]),)](
            squares, counts, count, batch, psi2, scale, norm.running_phi, norm.num_updates,
            warmup.get("updates_before"), norm.settings.warmup_updates, tokens.count, squares.size(1),
            1 - norm.settings.alpha_fwd, norm.eps, TYPES[channels.dtype], norm.dim,
            norm.settings.double_update, local, **ADDING,
        )  # fmt: skip
    if local:
        norm._scale = scale
    else:
        psi2, batch = (_psi2(each, norm) for each in norm.update_quadratic_mean(count, batch))
    if warmup:
        run_forward(channels, tokens, source.read(), y, norm.weight, norm.bias, psi2, **warmup)
    return count, psi2, batch


def _psi2(scale: Tensor, norm: PowerNorm) -> Tensor:
    """Return the psi^2 (C,) of the kernels from the 1 / sqrt(psi^2 + eps) of the plain code."""
    return scale.pow(-2) - norm.eps


@triton.jit(do_not_specialize=COUNTS)
def _end_forward(
    squares,  # (P, C)
    counts,  # (P,) or None
    count,  # scalar: takes the number of real tokens
    batch,  # (C,) takes the batch's psi^2, or the running one where the batch has no token
    psi2,  # (C,) takes that of the forward, with STEP
    scale,  # (C,) takes 1 / sqrt(psi2 + EPS), with STEP
    running,  # (C,) psi^2
    updates,
    updates_before,  # scalar or None: no warmup
    warmup,
    tokens,
    programs,
    NEW_WEIGHT: tl.constexpr,
    EPS: tl.constexpr,
    T: tl.constexpr,
    C: tl.constexpr,
    DOUBLE_UPDATE: tl.constexpr,
    STEP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The batch's psi^2 from the sums of squares and, with STEP, what ``PowerNorm.step`` does with it."""
    channels = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channels < C
    real = count_up(counts, tokens, programs, ROWS, T)
    old = tl.load(running + channels, mask=inside, other=0.0).to(T)
    new = add_up(squares, channels, inside, programs, C, ROWS, COLUMNS) / tl.maximum(real, 1.0)
    if STEP:
        new = tl.where(real > 0, new, old)
    tl.store(batch + channels, new, mask=inside)
    first = tl.program_id(0) == 0
    if first:
        tl.store(count, real)
    if STEP:
        divisor = old
        updated = old + NEW_WEIGHT * (new - old)
        if updates_before is not None:
            before = tl.load(updates_before)
            step = before + 1
            warming = old + (new - old) / step.to(T)
            if DOUBLE_UPDATE:
                warming += NEW_WEIGHT * (new - warming)
            updated = tl.where(step < warmup, warming, updated)
            divisor = tl.where(before < warmup, new, old)
        tl.store(psi2 + channels, divisor, mask=inside)
        tl.store(scale + channels, tl.rsqrt(divisor + EPS), mask=inside)
        tl.store(running + channels, tl.where(real > 0, updated, old), mask=inside)
        if first:
            if updates_before is None:
                before = tl.load(updates)
            tl.store(updates, before + (real > 0).to(tl.int64))


@triton.jit(do_not_specialize=COUNTS)
def _end_backward(
    sums,  # (3, P, C): of g z, g and z^2
    grad_weight,
    grad_bias,
    weight,
    psi2,
    nu,  # (C,) as ``ema_gz`` holds it
    projection,  # (C,) takes mean(x~ x^), or None: nu takes its step
    count,  # scalar, or None: all positions count
    tokens,
    programs,
    NU_SCALE: tl.constexpr,
    NEW_WEIGHT: tl.constexpr,
    EPS: tl.constexpr,
    T: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """dL/dweight, dL/dbias and mean(x~ x^) = (weight dL/dweight - NU_SCALE nu sum(z^2) / (psi2 + EPS)) / positions."""
    channels = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channels < C
    inverse = tl.rsqrt(tl.load(psi2 + channels, mask=inside, other=1.0).to(T) + EPS)
    table = programs * C
    of_weight = add_up(sums, channels, inside, programs, C, ROWS, COLUMNS) * inverse
    tl.store(grad_weight + channels, of_weight.to(grad_weight.dtype.element_ty), mask=inside)
    of_bias = add_up(sums + table, channels, inside, programs, C, ROWS, COLUMNS)
    tl.store(grad_bias + channels, of_bias.to(grad_bias.dtype.element_ty), mask=inside)
    old = tl.load(nu + channels, mask=inside, other=0.0).to(T)
    squares = add_up(sums + 2 * table, channels, inside, programs, C, ROWS, COLUMNS) * inverse * inverse
    mean = tl.load(weight + channels, mask=inside, other=0.0).to(T) * of_weight - NU_SCALE * old * squares
    mean /= tl.maximum(tokens.to(T) if count is None else tl.load(count), 1.0)
    if projection is None:
        tl.store(nu + channels, old + NEW_WEIGHT * mean, mask=inside)
    else:
        tl.store(projection + channels, mean, mask=inside)
