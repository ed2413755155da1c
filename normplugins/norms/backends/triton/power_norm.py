"""PN and PN-V on a GPU; the norms' own files have the equations and the plain-PyTorch references.

After the warmup PN's forward is one pass over x and its backward one over g and x, 2 N C e and 3 N C e bytes for
elements of e bytes; in the warmup the forward takes one more, 3 N C e. A second, small kernel reduces the sums and
updates the running statistics. A training step of a PN is 5 launches, without warmup 4, and the host waits for none.

PN-V needs the batch's quadratic mean first: 3 N C e forward, 5 N C e backward (``exact.py``), 2 and 3 at evaluation. A
training step is 6 launches.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from normplugins.norms.backends.triton.channelwise import end_backward, run_backward, run_forward
from normplugins.norms.backends.triton.exact import save_for_backward, start_backward
from normplugins.norms.backends.triton.residual import Source
from normplugins.norms.backends.triton.tiles import BACKWARD_THREADS, COUNTS, Channels, Tokens, add_up, count_up
from normplugins.norms.power_norm import PowerNorm
from normplugins.norms.power_norm_v import PowerNormV
from normplugins.norms.statistics import recomputing


class Approximate(torch.autograd.Function):
    """PN in training, with the approximate backward."""

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
        """Return y, of x's dtype, and the sum if there is an update."""
        y = torch.empty_like(x)
        count, psi2, batch = _train(norm, source, y, tokens, channels)
        ctx.norm, psi2_backward = norm, batch if norm.settings.batch_backward else psi2
        save_for_backward(ctx, source, tokens, channels, weight, bias, psi2, psi2_backward, count)
        return y, None if update is None else source.value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, arriving: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return dL/dx, dL/dupdate, dL/dweight and dL/dbias from dL/dy and the other gradient of the sum."""
        g, wanted, x, weight, bias, psi2, psi2_backward, count = start_backward(ctx, g, arriving)
        norm, tokens, channels = ctx.norm, ctx.tokens, ctx.channels
        grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(bias)
        sums = channels.table(x, tokens, 3, BACKWARD_THREADS)
        nu_scale, new_weight = 1.0, 1 - norm.settings.alpha_bkw
        if norm.settings.unscaled_nu:
            nu_scale, new_weight = new_weight, nu_scale
        if norm.settings.padding_in_backward:
            count = None
        projection = None if norm.updates_immediately else channels.empty(x, norm.dim)
        run_backward(
            channels, tokens, g, x, wanted, sums,
            weight=weight, psi2=psi2, psi2_backward=psi2_backward, nu=norm.ema_gz, NU_SCALE=nu_scale,
        )  # fmt: skip
        channels.over_channels(
            end_backward, x, sums=sums, grad_weight=grad_weight, grad_bias=grad_bias, weight=weight, psi2=psi2,
            count=count, tokens=tokens.count, programs=sums.size(1), means=projection, nu=norm.ema_gz,
            NU_SCALE=nu_scale, NEW_WEIGHT=new_weight, CENTRED=False, EPS=channels.eps,
        )  # fmt: skip
        if projection is not None:
            norm.update_nu(projection.new_full((), tokens.count) if count is None else count, projection)
        return *wanted.of_parts(ctx.needs_input_grad[1]), grad_weight, grad_bias, None, None, None, None


def _train(
    norm: PowerNorm, source: Source, y: Tensor, tokens: Tokens, channels: Channels
) -> tuple[Tensor, Tensor, Tensor]:
    """Write y and update psi^2; return the number of real tokens, the psi^2 (C,) that y divides by, and the batch's."""
    x = source.x
    local = norm.updates_immediately and not recomputing()
    given = _psi2(norm._scale, norm) if recomputing() and norm._scale is not None else None
    squares, counts = _sums(source, tokens, channels)
    count, (psi2, batch, scale) = channels.empty(x), channels.empty(x, 3, norm.dim)
    warmup: dict[str, Any] = {}
    if norm.settings.warmup_updates and given is None:
        before = torch.empty_like(norm.num_updates)
        warmup = {"warmup_updates": norm.settings.warmup_updates, "updates": norm.num_updates, "updates_before": before}
    affine = {"weight": norm.weight, "bias": norm.bias}
    used = norm.running_phi if given is None else given
    run_forward(channels, tokens, source, y, squares, **affine, psi2=used, counts=counts, **warmup)
    channels.over_channels(
        _end_forward, x, squares=squares, counts=counts, count=count, batch=batch, running=norm.running_phi,
        psi2=psi2, scale=scale, updates=norm.num_updates, updates_before=warmup.get("updates_before"),
        warmup_updates=norm.settings.warmup_updates, tokens=tokens.count, programs=squares.size(0),
        NEW_WEIGHT=1 - norm.settings.alpha_fwd, EPS=norm.eps, DOUBLE_UPDATE=norm.settings.double_update, STEP=local,
    )  # fmt: skip
    if local:
        norm._scale = scale
    else:
        psi2, batch = (_psi2(each, norm) for each in norm.update_quadratic_mean(count, batch))
    if warmup:
        run_forward(channels, tokens, source.read(), y, **affine, psi2=psi2, **warmup)
    return count, psi2, batch


@torch.no_grad()
def batch_psi2(norm: PowerNormV, source: Source, tokens: Tokens, channels: Channels) -> tuple[Tensor, ...]:
    """Update the running quadratic mean of PN-V; return the number of real tokens and their quadratic mean (C,)."""
    x = source.x
    local = norm.updates_immediately and not recomputing()
    squares, counts = _sums(source, tokens, channels)
    count, batch = channels.empty(x), channels.empty(x, norm.dim)
    run_forward(channels, tokens, source, None, squares, weight=norm.weight, counts=counts)
    channels.over_channels(
        _end_forward, x, squares=squares, counts=counts, count=count, batch=batch, running=norm.running_phi,
        psi2=None, scale=None, updates=None, updates_before=None, warmup_updates=0, tokens=tokens.count,
        programs=squares.size(0), NEW_WEIGHT=norm.momentum, EPS=norm.eps, DOUBLE_UPDATE=False, STEP=local,
    )  # fmt: skip
    if local:
        return count, batch
    count, batch = norm.synchronize(count, batch)
    norm.update_running_stats(count, batch)
    return count, batch


def _sums(source: Source, tokens: Tokens, channels: Channels) -> tuple[Tensor, Tensor | None]:
    """Return empty tables for the sums of squares (P, C) and, with padding, the numbers of tokens (P,)."""
    squares = channels.table(source.x, tokens, 1, source.threads)[0]
    return squares, None if tokens.padding is None else channels.empty(source.x, squares.size(0))


def _psi2(scale: Tensor, norm: PowerNorm) -> Tensor:
    """Return the psi^2 (C,) of the kernels from the 1 / sqrt(psi^2 + eps) of the plain code."""
    return scale.pow(-2) - norm.eps


@triton.jit(do_not_specialize=COUNTS)
def _end_forward(
    squares,  # (P, C)
    counts,  # (P,) or None
    count,  # scalar: takes the number of real tokens
    batch,  # (C,) takes the batch's psi^2, or the running one where the batch has no token
    running,  # (C,) psi^2
    psi2,  # (C,) takes that of the forward, with STEP; None in PN-V
    scale,  # (C,) takes 1 / sqrt(psi2 + EPS), with STEP; None in PN-V
    updates,  # the update count, or None in PN-V
    updates_before,  # scalar or None: no warmup
    warmup_updates,
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
    """The batch's psi^2 from the sums of squares and, with STEP, the norm's ``step``."""
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
            updated = tl.where(step < warmup_updates, warming, updated)
            divisor = tl.where(before < warmup_updates, new, old)
        tl.store(running + channels, tl.where(real > 0, updated, old), mask=inside)
        if psi2 is not None:
            tl.store(psi2 + channels, divisor, mask=inside)
            tl.store(scale + channels, tl.rsqrt(divisor + EPS), mask=inside)
            if first:
                if updates_before is None:
                    before = tl.load(updates)
                tl.store(updates, before + (real > 0).to(tl.int64))
