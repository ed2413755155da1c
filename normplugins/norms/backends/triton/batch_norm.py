"""BN on a GPU; ``norms/batch_norm.py`` has the equations and the plain-PyTorch reference.

In training, both directions need statistics of the whole batch first. The forward makes one pass for mean and variance
and one for y, 3 N C e bytes for elements of e bytes; the backward (``autograd.py``) moves 5 N C e. At evaluation they
move 2 N C e and 3 N C e. A training step launches 6 kernels.

The variance is never a difference of large sums. Each row of a tile holds a running mean and a sum of squared
deviations (Welford), which are merged by their counts, first within a program, then over the programs (Chan).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from normplugins.norms.backends.triton.autograd import Statistics
from normplugins.norms.backends.triton.tiles import (
    FORWARD_THREADS,
    UNSPECIALIZED,
    Layout,
    block_channels,
    count_up,
    load_vector,
    tile_tokens,
)
from normplugins.norms.batch_norm import BatchNorm
from normplugins.norms.statistics import recomputing


@torch.no_grad()
def update_batch_norm(norm: BatchNorm, x: Tensor, layout: Layout) -> Statistics:
    """Update the running statistics; return the statistics of the batch's real tokens."""
    local = norm.updates_immediately and not recomputing()
    parts = layout.table(2, FORWARD_THREADS)
    counts, programs = layout.empty(parts.size(1)), parts.size(1)
    count, (mean, var) = layout.empty(), layout.empty(2, norm.dim)
    layout.over_tokens(_moments, programs, x=x, parts=parts, counts=counts)
    layout.over_channels(
        _end_statistics, parts=parts, counts=counts, count=count, mean=mean, var=var,
        running_mean=norm.running_mean, running_var=norm.running_var, programs=programs,
        MOMENTUM=norm.momentum, STEP=local,
    )  # fmt: skip
    if not local:
        pooled = norm.synchronize(count, count, mean, var)
        norm.update_running_stats(*pooled)
        _, count, mean, var = pooled
    return Statistics(mean, var, count, norm.synchronizes)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _moments(
    x,  # (N, C)
    parts,  # (2, P, C) receives the means and the sums of squared deviations from them
    counts,  # (P,) receives the number of real tokens
    tokens, padding, sentences, padding_sentence, padding_time,
    T: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Compute mean and squared deviations of each program's real tokens, channel by channel, in one pass."""
    block, program = tl.program_id(0), tl.program_id(1)
    channels, inside = block_channels(C, WIDTH, COLUMNS)
    seen = tl.zeros((ROWS,), T)
    mean = tl.zeros((ROWS, COLUMNS), T)
    squares = tl.zeros((ROWS, COLUMNS), T)
    for start in tl.range(program * ROWS, tokens, tl.num_programs(1) * ROWS):
        token, _exists, real = tile_tokens(start, tokens, padding, sentences, padding_sentence, padding_time, ROWS)
        at = token[:, None] * C + channels[None, :]
        there = real[:, None] & inside[None, :]
        value = tl.load(x + at, mask=there, other=0.0).to(T)
        seen += real.to(T)
        deviation = tl.where(there, value - mean, 0.0)
        mean += deviation * (1.0 / tl.maximum(seen, 1.0))[:, None]
        squares += deviation * (value - mean)
    number = tl.sum(seen, axis=0)
    whole = tl.sum(mean * seen[:, None], axis=0) / tl.maximum(number, 1.0)
    apart = mean - whole[None, :]
    squares += apart * apart * seen[:, None]
    row = parts + program * C + channels
    tl.store(row, whole, mask=inside)
    tl.store(row + tl.num_programs(1) * C, tl.sum(squares, axis=0), mask=inside)
    tl.store(counts + program, number, mask=block == 0)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _end_statistics(
    parts,  # (2, P, C)
    counts,  # (P,)
    count,  # scalar: receives the number of real tokens
    mean,  # (C,) receives the batch's mean
    var,  # (C,) receives the batch's biased variance
    running_mean,
    running_var,
    tokens,
    programs,
    MOMENTUM: tl.constexpr, STEP: tl.constexpr,
    T: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Merge all programs' means and variances and, with STEP, update the running ones if there is a token."""
    channels, inside = block_channels(C, COLUMNS, COLUMNS)
    real = count_up(counts, tokens, programs, ROWS, T)
    total = tl.zeros((ROWS, COLUMNS), T)
    for start in tl.range(0, programs, ROWS):
        program = start + tl.arange(0, ROWS)
        there = (program < programs)[:, None] & inside[None, :]
        number = tl.load(counts + program, mask=program < programs, other=0.0)[:, None]
        total += number * tl.load(parts + program[:, None] * C + channels[None, :], mask=there, other=0.0)
    new_mean = tl.sum(total, axis=0) / tl.maximum(real, 1.0)
    squares = tl.zeros((ROWS, COLUMNS), T)
    for start in tl.range(0, programs, ROWS):
        program = start + tl.arange(0, ROWS)
        there = (program < programs)[:, None] & inside[None, :]
        number = tl.load(counts + program, mask=program < programs, other=0.0)[:, None]
        at = program[:, None] * C + channels[None, :]
        apart = tl.load(parts + at, mask=there, other=0.0) - new_mean[None, :]
        squares += tl.load(parts + programs * C + at, mask=there, other=0.0) + number * apart * apart
    deviations = tl.sum(squares, axis=0)
    new_var = deviations / tl.maximum(real, 1.0)
    tl.store(mean + channels, new_mean, mask=inside)
    tl.store(var + channels, new_var, mask=inside)
    if tl.program_id(0) == 0:
        tl.store(count, real)
    if STEP:
        unbiased = deviations / tl.maximum(real - 1.0, 1.0)
        old_mean = load_vector(running_mean, channels, inside, T)
        old_var = load_vector(running_var, channels, inside, T)
        moved_mean = old_mean + MOMENTUM * (new_mean - old_mean)
        moved_var = old_var + MOMENTUM * (unbiased - old_var)
        tl.store(running_mean + channels, tl.where(real > 0, moved_mean, old_mean), mask=inside)
        tl.store(running_var + channels, tl.where(real > 0, moved_var, old_var), mask=inside)
