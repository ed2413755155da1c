"""The forward and backward kernels of ``pn``, ``pn_alg2``, ``pnv``, ``bn`` and ``rms``.

For the tokens x of one channel they compute, with every vector (C,) and sum in float32,

    z = x,  or x - mean (bn),  or x divided by the root mean square of its channel group (rms; a switch of pn and pnv)
    y = weight z / psi + bias                              and in the same pass  sum z^2
    dL/dz = (weight g - nu z / psi - shift) / psi'         and in the same pass  sum g z, sum g, sum z^2

where g = dL/dy. The norms differ in their arguments. PN passes the psi and nu of the step before, and psi' is the
batch's. PN-V and BN pass the batch's psi = psi', and nu = mean(weight g z / psi) and shift = mean(weight g), which make
the backward exact. RMSNorm has no psi, nu or shift. The plain-PyTorch references are in the norms' own files.

HBM traffic, for N tokens of C channels of e bytes: a pass of the forward reads x, N C e, and writes y, N C e, unless it
only computes sums; a pass of the backward reads g and x, and writes dL/dx unless it only computes sums. If x is
residual + dropout(update), the first pass of the forward and the last one of the backward handle it: see
``residual.py``.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from normplugins.norms.backends.triton.residual import Gradients, Source, draw_kept, load_sum
from normplugins.norms.backends.triton.tiles import BACKWARD_THREADS, COUNTS, Channels, Tokens, add_up, tile_tokens


@triton.jit
def group_rms(x, EPS: tl.constexpr, WIDTH: tl.constexpr):
    """1 / sqrt(mean x^2 + EPS) (ROWS, 1) of a tile (ROWS, COLUMNS) that is one channel group of WIDTH channels."""
    return tl.rsqrt(tl.sum(x * x, axis=1) / WIDTH + EPS)[:, None]


@triton.jit(do_not_specialize=COUNTS)
def forward(
    x,  # (N, C)
    y,  # (N, C), or None: gather sums only
    weight,  # (C,)
    bias,  # (C,) or None
    mean,  # (C,) or None: not centred
    psi2,  # (C,) or None: psi is 1
    squares,  # (P, C) takes the sums of z^2 over real tokens, or None: write y only
    counts,  # (P,) takes the number of real tokens, or None
    updates,  # PN's update count, or None: no warmup
    updates_before,  # scalar: this count before the step. Written in the pass with sums, read in the one without
    warmup_updates,
    update,  # (N, C): its sum with x, after dropout, stands for x; or None
    total,  # (N, C) takes this sum, or None
    seed,  # scalar, or None: nothing is dropped
    tokens,
    padding,
    sentences,
    padding_sentence,
    padding_time,
    DROPPED: tl.constexpr,
    SCALE: tl.constexpr,
    EPS: tl.constexpr,
    T: tl.constexpr,
    C: tl.constexpr,
    GROUP_SCALING: tl.constexpr,
    PADDING_AS_TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """y = weight z / sqrt(psi2 + EPS) + bias, and the sums of z^2. Padding is not counted, its y is 0.

    With PADDING_AS_TOKENS its y is computed as of a token, but it does not count. It is read only for this, or for
    x + dropout(update).

    Only the device knows whether PN warms up. If so, the pass with sums writes no y, and the pass without sums, which
    otherwise ends immediately, writes it with the batch's psi2.
    """
    block, program = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, COLUMNS)
    channels = block * WIDTH + column
    inside = (column < WIDTH) & (channels < C)
    writes = True
    if updates is not None:
        if squares is not None:
            count = tl.load(updates)
            writes = count >= warmup_updates
            if block + program == 0:
                tl.store(updates_before, count)
        elif tl.load(updates_before) >= warmup_updates:
            return
    if y is not None:
        scale = tl.load(weight + channels, mask=inside, other=0.0).to(T)
        if psi2 is not None:
            scale *= tl.rsqrt(tl.load(psi2 + channels, mask=inside, other=1.0).to(T) + EPS)
        if bias is not None:
            offset = tl.load(bias + channels, mask=inside, other=0.0).to(T)
    if mean is not None:
        centre = tl.load(mean + channels, mask=inside, other=0.0).to(T)
    sum_squares = tl.zeros((ROWS, COLUMNS), T)
    real_tokens = tl.zeros((ROWS,), T)
    for start in tl.range(program * ROWS, tokens, tl.num_programs(1) * ROWS):
        token, exists, real = tile_tokens(start, tokens, padding, sentences, padding_sentence, padding_time, ROWS)
        at = token[:, None] * C + channels[None, :]
        there = exists[:, None] & inside[None, :]
        read = exists if PADDING_AS_TOKENS else real
        if update is None:
            z = tl.load(x + at, mask=read[:, None] & there, other=0.0).to(T)
        else:
            z = load_sum(x, update, total, seed, at, there, start, DROPPED, SCALE, T, ROWS, COLUMNS)
        if mean is not None:
            z -= centre[None, :]
        if GROUP_SCALING:
            z *= group_rms(z, EPS, WIDTH)
        if squares is not None:
            sum_squares += tl.where(real[:, None], z * z, 0.0)
            real_tokens += real.to(T)
        if y is not None:  # noqa: SIM102  (the compiler knows this condition, and only the GPU the next)
            if writes:
                out = z * scale[None, :]
                if bias is not None:
                    out += offset[None, :]
                out = tl.where(read[:, None], out, 0.0)
                tl.store(y + at, out.to(y.dtype.element_ty), mask=there)
    if squares is not None:
        tl.store(squares + program * C + channels, tl.sum(sum_squares, axis=0), mask=inside)
        if counts is not None:
            tl.store(counts + program, tl.sum(real_tokens, axis=0), mask=block == 0)


@triton.jit(do_not_specialize=COUNTS)
def backward(
    g,  # (N, C)
    x,  # (N, C)
    dx,  # (N, C), or None: gather sums only
    weight,  # (C,)
    mean,  # (C,) or None
    psi2,  # (C,) as the forward divided by, or None: psi is 1
    psi2_backward,  # (C,) as dL/dz divides by, or None
    nu,  # (C,) or None: a fixed psi
    shift,  # (C,) or None
    sums,  # (3, P, C) takes the sums of g z, g and, with nu, z^2; or None: write dx only
    arriving,  # (N, C): another gradient of x, to be added to dx, or None
    dupdate,  # (N, C) takes the gradient of the update in x, or None
    seed,  # scalar, or None: nothing was dropped
    tokens,
    padding,
    sentences,
    padding_sentence,
    padding_time,
    DROPPED: tl.constexpr,
    SCALE: tl.constexpr,
    NU_SCALE: tl.constexpr,
    EPS: tl.constexpr,
    T: tl.constexpr,
    C: tl.constexpr,
    GROUP_SCALING: tl.constexpr,
    PADDING_AS_TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """dL/dz = (weight g - NU_SCALE nu z / sqrt(psi2 + EPS) - shift) / sqrt(psi2_backward + EPS), and the sums.

    Through the group scaling z = r x it goes on as dL/dx = r (dL/dz - z mean(z dL/dz)), means over the group. Padding
    is neither read nor counted, and its dL/dx is 0; with PADDING_AS_TOKENS it is a token. Other gradients of x are then
    added, and through the dropout in x it goes on as that of the update.
    """
    block, program = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, COLUMNS)
    channels = block * WIDTH + column
    inside = (column < WIDTH) & (channels < C)
    if dx is not None:
        of_g = tl.load(weight + channels, mask=inside, other=0.0).to(T)
        if psi2_backward is not None:
            inverse = tl.rsqrt(tl.load(psi2_backward + channels, mask=inside, other=1.0).to(T) + EPS)
            of_g *= inverse
        if nu is not None:
            of_z = -NU_SCALE * tl.load(nu + channels, mask=inside, other=0.0).to(T) * inverse
            of_z *= tl.rsqrt(tl.load(psi2 + channels, mask=inside, other=1.0).to(T) + EPS)
        if shift is not None:
            constant = -tl.load(shift + channels, mask=inside, other=0.0) * inverse
    if mean is not None:
        centre = tl.load(mean + channels, mask=inside, other=0.0).to(T)
    sum_gz = tl.zeros((ROWS, COLUMNS), T)
    sum_g = tl.zeros((ROWS, COLUMNS), T)
    sum_zz = tl.zeros((ROWS, COLUMNS), T)
    for start in tl.range(program * ROWS, tokens, tl.num_programs(1) * ROWS):
        token, exists, real = tile_tokens(start, tokens, padding, sentences, padding_sentence, padding_time, ROWS)
        at = token[:, None] * C + channels[None, :]
        read = exists if PADDING_AS_TOKENS else real
        there = read[:, None] & inside[None, :]
        z = tl.load(x + at, mask=there, other=0.0).to(T)
        dy = tl.load(g + at, mask=there, other=0.0).to(T)
        if mean is not None:
            z = tl.where(there, z - centre[None, :], 0.0)
        if GROUP_SCALING:
            rms = group_rms(z, EPS, WIDTH)
            z *= rms
        if sums is not None:
            sum_gz += dy * z
            sum_g += dy
            if nu is not None:
                sum_zz += z * z
        if dx is not None:
            dz = dy * of_g[None, :]
            if nu is not None:
                dz += z * of_z[None, :]
            if shift is not None:
                dz = tl.where(there, dz + constant[None, :], 0.0)
            if GROUP_SCALING:
                dz = rms * (dz - z * (tl.sum(z * dz, axis=1) / WIDTH)[:, None])
            there = exists[:, None] & inside[None, :]
            if arriving is not None:
                dz += tl.load(arriving + at, mask=there, other=0.0).to(T)
            tl.store(dx + at, dz.to(dx.dtype.element_ty), mask=there)
            if dupdate is not None:
                dz = tl.where(draw_kept(seed, start, DROPPED, ROWS, COLUMNS), dz * SCALE, 0.0)
                tl.store(dupdate + at, dz.to(dupdate.dtype.element_ty), mask=there)
    if sums is not None:
        table = tl.num_programs(1) * C
        row = sums + program * C + channels
        tl.store(row, tl.sum(sum_gz, axis=0), mask=inside)
        tl.store(row + table, tl.sum(sum_g, axis=0), mask=inside)
        if nu is not None:
            tl.store(row + 2 * table, tl.sum(sum_zz, axis=0), mask=inside)


@triton.jit(do_not_specialize=COUNTS)
def end_backward(
    sums,  # (2 or 3, P, C): of g z, g and, with nu, z^2
    grad_weight,  # (C,)
    grad_bias,  # (C,) or None
    weight,
    psi2,  # (C,) or None
    count,  # scalar: tokens in the means, or None: all
    tokens,
    programs,
    means,  # (1 or 2, C) takes mean(x~ x^) and, with CENTRED, mean(weight g); or None
    nu,  # (C,) of PN, as ``ema_gz`` holds it: it takes its step if ``means`` is None; or None: x~ = weight g
    NU_SCALE: tl.constexpr,
    NEW_WEIGHT: tl.constexpr,
    CENTRED: tl.constexpr,
    EPS: tl.constexpr,
    T: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """dL/dweight, dL/dbias and mean(x~ x^) = (weight dL/dweight - NU_SCALE nu sum(z^2) / (psi2 + EPS)) / tokens."""
    channels = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channels < C
    table = programs * C
    of_weight = add_up(sums, channels, inside, programs, C, ROWS, COLUMNS)
    if psi2 is not None:
        inverse = tl.rsqrt(tl.load(psi2 + channels, mask=inside, other=1.0).to(T) + EPS)
        of_weight *= inverse
    tl.store(grad_weight + channels, of_weight.to(grad_weight.dtype.element_ty), mask=inside)
    if grad_bias is not None:
        of_bias = add_up(sums + table, channels, inside, programs, C, ROWS, COLUMNS)
        tl.store(grad_bias + channels, of_bias.to(grad_bias.dtype.element_ty), mask=inside)
    scale = tl.load(weight + channels, mask=inside, other=0.0).to(T)
    mean = scale * of_weight
    if nu is not None:
        old = tl.load(nu + channels, mask=inside, other=0.0).to(T)
        mean -= (
            NU_SCALE * old * add_up(sums + 2 * table, channels, inside, programs, C, ROWS, COLUMNS) * inverse * inverse
        )
    number = tl.maximum(tokens.to(T) if count is None else tl.load(count), 1.0)
    if means is not None:
        tl.store(means + channels, mean / number, mask=inside)
        if CENTRED:
            tl.store(means + C + channels, scale * of_bias / number, mask=inside)
    elif nu is not None:
        tl.store(nu + channels, old + NEW_WEIGHT * mean / number, mask=inside)


def run_forward(
    channels: Channels, tokens: Tokens, source: Source, y: Tensor | None, squares: Tensor | None = None, **given: Any
) -> None:
    """Launch :func:`forward` with these arguments, over as many programs as ``squares`` (P, C) has rows, if given."""
    programs = channels.programs(source.x, tokens, source.threads) if squares is None else squares.size(0)
    absent = dict.fromkeys(("bias", "mean", "psi2", "counts", "updates", "updates_before")) | {"warmup_updates": 0}
    arguments = absent | given | source.arguments() | channels.switches()
    channels.over_tokens(forward, source.x, tokens, programs, y=y, squares=squares, **arguments)


def run_backward(
    channels: Channels,
    tokens: Tokens,
    g: Tensor,
    x: Tensor,
    wanted: Gradients,
    sums: Tensor | None = None,
    **given: Any,
) -> None:
    """Launch :func:`backward` with these arguments, over as many programs as ``sums`` (k, P, C) has rows, if given."""
    programs = channels.programs(x, tokens, BACKWARD_THREADS) if sums is None else sums.size(1)
    absent = dict.fromkeys(("mean", "nu", "shift")) | {"NU_SCALE": 1.0}
    arguments = absent | given | wanted.arguments() | channels.switches()
    channels.over_tokens(backward, x, tokens, programs, g=g, dx=wanted.dx, sums=sums, **arguments)
