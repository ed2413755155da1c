"""PN and PN-V on a GPU; the norms' own files have the equations and the plain-PyTorch references.

After the warmup, PN's forward makes one pass over x and its backward one over g and x: 2 N C e and 3 N C e bytes, for
elements of e bytes. During the warmup the forward makes one more pass, 3 N C e bytes in all. A second, small kernel
reduces the sums and updates the running statistics. A training step of PN launches 5 kernels, or 4 with
``warmup_updates`` 0, and the host waits for none of them.

In training, PN-V needs the batch's quadratic mean first: it moves 3 N C e bytes forward and 5 N C e backward
(``autograd.py``), and 2 N C e and 3 N C e at evaluation. A training step launches 6 kernels.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from normplugins.norms.backends.triton.autograd import Statistics
from normplugins.norms.backends.triton.channelwise import forward
from normplugins.norms.backends.triton.tiles import (
    FORWARD_THREADS,
    UNSPECIALIZED,
    Layout,
    add_up,
    block_channels,
    count_up,
    load_vector,
)
from normplugins.norms.power_norm import PowerNorm
from normplugins.norms.power_norm_v import PowerNormV
from normplugins.norms.statistics import recomputing


def update_power_norm(norm: PowerNorm, x: Tensor, layout: Layout, y: Tensor) -> Statistics:
    """Update psi^2 of PN, write y, and return the statistics that the backward needs."""
    given = _psi2(norm._scale, norm) if recomputing() and norm._scale is not None else None
    squares, counts = _sums(layout)
    warmup: dict[str, Any] = {}
    if norm.warmup_updates and given is None:
        before = torch.empty_like(norm.num_updates)
        warmup = {"warmup_updates": norm.warmup_updates, "updates": norm.num_updates, "updates_before": before}
    common = {**layout.scaling(), **warmup, "x": x, "y": y, "weight": norm.weight, "bias": norm.bias}
    layout.over_tokens(
        forward, squares.size(0), **common, squares=squares, counts=counts,
        psi2=norm.running_phi if given is None else given,
    )  # fmt: skip
    psi2, scale = layout.empty(2, norm.dim)
    local, count, batch = _end(
        norm, layout, squares, counts, 1 - norm.alpha_fwd, psi2=psi2, scale=scale,
        **{"updates": norm.num_updates, "DOUBLE_UPDATE": norm.double_update} | warmup,
    )  # fmt: skip
    if local:
        norm._scale = scale
    else:
        psi2, batch = (_psi2(each, norm) for each in norm.update_quadratic_mean(count, batch))
    if warmup:
        layout.over_tokens(forward, squares.size(0), **common, psi2=psi2)
    psi2_backward = batch if norm.batch_backward else psi2
    return Statistics(psi2=psi2, count=count, approximate=norm, psi2_backward=psi2_backward)


@torch.no_grad()
def update_power_norm_v(norm: PowerNormV, x: Tensor, layout: Layout) -> Statistics:
    """Update psi^2 of PN-V; return the statistics of the batch's real tokens."""
    squares, counts = _sums(layout)
    layout.over_tokens(
        forward, squares.size(0), **layout.scaling(), x=x, weight=norm.weight, squares=squares, counts=counts
    )
    local, count, psi2 = _end(norm, layout, squares, counts, norm.momentum)
    if not local:
        count, psi2 = norm.synchronize(count, psi2)
        norm.update_running_stats(count, psi2)
    return Statistics(psi2=psi2, count=count, synchronizes=norm.synchronizes)


def _sums(layout: Layout) -> tuple[Tensor, Tensor | None]:
    """Return empty tables for the sums of squares (P, C) and, with padding, the numbers of tokens (P,)."""
    squares = layout.table(1, FORWARD_THREADS)[0]
    return squares, None if layout.padding is None else layout.empty(squares.size(0))


def _end(
    norm: PowerNorm | PowerNormV,
    layout: Layout,
    squares: Tensor,
    counts: Tensor | None,
    new_weight: float,
    **step: Any,
) -> tuple[bool, Tensor, Tensor]:
    """Return whether psi^2 has been updated already, the number of real tokens, and their quadratic mean (C,)."""
    local = norm.updates_immediately and not recomputing()
    count, batch = layout.empty(), layout.empty(norm.dim)
    layout.over_channels(
        _end_forward, squares=squares, counts=counts, count=count, batch=batch, running=norm.running_phi,
        programs=squares.size(0), NEW_WEIGHT=new_weight, EPS=norm.eps, STEP=local, **step,
    )  # fmt: skip
    return local, count, batch


def _psi2(scale: Tensor, norm: PowerNorm) -> Tensor:
    """Convert the plain code's 1 / sqrt(psi^2 + eps) (C,) to the psi^2 that the kernels take."""
    return scale.pow(-2) - norm.eps


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _end_forward(
    squares,  # (P, C)
    counts,  # (P,) or None
    count,  # scalar: receives the number of real tokens
    batch,  # (C,) receives the batch's psi^2 or, with STEP and without a token, the running one
    running,  # (C,) psi^2
    tokens,
    programs,
    NEW_WEIGHT: tl.constexpr, EPS: tl.constexpr, T: tl.constexpr, C: tl.constexpr, STEP: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    psi2=None,  # (C,) receives, with STEP, the psi^2 that the forward divides by; None in PN-V
    scale=None,  # (C,) receives, with STEP, 1 / sqrt(psi2 + EPS); None in PN-V
    updates=None,  # the update count, or None in PN-V
    updates_before=None,  # scalar or None: no warmup
    warmup_updates=0,
    DOUBLE_UPDATE: tl.constexpr = False,
):  # fmt: skip
    """Compute the batch's psi^2 from the sums of squares and, with STEP, do what the norm's ``step`` does."""
    channels, inside = block_channels(C, COLUMNS, COLUMNS)
    real = count_up(counts, tokens, programs, ROWS, T)
    old = load_vector(running, channels, inside, T)
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
