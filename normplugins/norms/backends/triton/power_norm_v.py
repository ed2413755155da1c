"""PN-V on a GPU; ``norms/power_norm_v.py`` has the equations and the plain-PyTorch reference.

Both directions need the batch's statistics first. The forward takes a pass for sum z^2 and one for y, 3 N C e bytes;
the backward (``exact.py``) 5 N C e; at evaluation 2 and 3. A training step is 6 launches.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from normplugins.norms.backends.dispatch import register_forward
from normplugins.norms.backends.triton.channelwise import run_forward
from normplugins.norms.backends.triton.exact import Exact
from normplugins.norms.backends.triton.residual import Source, normalized
from normplugins.norms.backends.triton.tiles import (
    ADDING,
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
from normplugins.norms.power_norm_v import PowerNormV
from normplugins.norms.statistics import recomputing


@register_forward("triton", PowerNormV)
def power_norm_v(norm: PowerNormV, x: Tensor | DeferredResidual, padding_mask: Tensor | None = None) -> Tensor:
    """PN-V of x (T, B, C) or (N, C) with padding_mask (B, T) or (N,)."""
    channels = Channels.of(x, norm.eps, norm.settings.groups if norm.settings.group_scaling else 0)
    if channels.tiles.columns > WIDEST:
        return norm.plain(materialize(x), padding_mask)
    source = Source.of(x)
    inputs, tokens = (source.x, source.update, norm.weight, norm.bias), Tokens.of(source.x, padding_mask, norm.dim)
    count, psi2 = None, norm.running_phi
    if norm.training:
        count, psi2 = _count(norm, source, tokens, channels)
        source = source.read()
    return normalized(x, *Exact.apply(*inputs, None, psi2, count, norm.synchronizes, source, tokens, channels))


@torch.no_grad()
def _count(norm: PowerNormV, source: Source, tokens: Tokens, channels: Channels) -> tuple[Tensor, Tensor]:
    """Update the running quadratic mean; return the number of real tokens and psi_B^2 (C,)."""
    x = source.x
    local = norm.updates_immediately and not recomputing()
    squares = channels.table(x, tokens, 1, source.threads)
    counts = None if tokens.padding is None else channels.empty(x, squares.size(1))
    count, psi2 = channels.empty(x), channels.empty(x, norm.dim)
    run_forward(channels, tokens, source, None, norm.weight, None, None, squares=squares, counts=counts)
    with on(x):
        _end_statistics[(triton.cdiv(norm.dim, ADDING["COLUMNS"]),)](
            squares, counts, count, psi2, norm.running_phi if local else None, tokens.count, squares.size(1),
            norm.momentum, TYPES[channels.dtype], norm.dim, **ADDING,
        )  # fmt: skip
    if not local:
        count, psi2 = norm.synchronize(count, psi2)
        norm.update_running_stats(count, psi2)
    return count, psi2


@triton.jit(do_not_specialize=COUNTS)
def _end_statistics(
    squares,  # (P, C)
    counts,  # (P,) or None
    count,  # scalar: takes the number of real tokens
    psi2,  # (C,) takes the batch's
    running,  # (C,) psi^2: takes its step; or None
    tokens,
    programs,
    NEWEST: tl.constexpr,
    T: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """psi_B^2 = sum z^2 / n, and psi^2 <- psi^2 + NEWEST (psi_B^2 - psi^2) if there is a token."""
    channels = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channels < C
    real = count_up(counts, tokens, programs, ROWS, T)
    batch = add_up(squares, channels, inside, programs, C, ROWS, COLUMNS) / tl.maximum(real, 1.0)
    tl.store(psi2 + channels, batch, mask=inside)
    if tl.program_id(0) == 0:
        tl.store(count, real)
    if running is not None:
        old = tl.load(running + channels, mask=inside, other=0.0).to(T)
        tl.store(running + channels, tl.where(real > 0, old + NEWEST * (batch - old), old), mask=inside)
