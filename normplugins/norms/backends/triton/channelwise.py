"""The forward and backward kernels of ``pn``, ``pn_alg2``, ``pnv``, ``bn`` and ``rms``.

For the tokens x of one channel they compute, with all vectors (C,) and sums in float32 (float64 for x in float64),

    z = x,  or x - mean (bn),  or x divided by the root mean square of its channel group (rms; a switch of pn and pnv)
    y = weight z / psi + bias                              and in the same pass  sum z^2
    dL/dz = (weight g - nu z / psi - shift) / psi'         and in the same pass  sum g z, sum g, sum z^2

where g = dL/dy. The norms differ in their arguments. PN passes the psi and nu of the previous step, and as psi' the
batch's psi (``pn_alg2``: psi again). PN-V and BN pass the batch's psi = psi', and nu = mean(weight g z / psi) and shift
= mean(weight g), which make the backward exact. RMSNorm has no psi, nu or shift. The plain-PyTorch references are in
the norms' own files.

HBM traffic, for N tokens of C channels of e bytes: a pass of the forward reads x, N C e, and writes y, N C e, unless it
only computes sums; a pass of the backward reads g and x, and writes dL/dx unless it only computes sums.
"""

import triton
import triton.language as tl

from normplugins.norms.backends.triton.tiles import (
    UNSPECIALIZED,
    add_up,
    block_channels,
    inverse_root,
    load_vector,
    tile_tokens,
)


@triton.jit
def inverse_group_rms(x, EPS: tl.constexpr, WIDTH: tl.constexpr):
    """1 / sqrt(mean x^2 + EPS) (ROWS, 1) of a tile (ROWS, COLUMNS) that is one channel group of WIDTH channels."""
    return tl.rsqrt(tl.sum(x * x, axis=1) / WIDTH + EPS)[:, None]


@triton.jit(do_not_specialize=UNSPECIALIZED)
def forward(
    x,  # (N, C)
    weight,  # (C,)
    tokens, padding, sentences, padding_sentence, padding_time,
    EPS: tl.constexpr, T: tl.constexpr, C: tl.constexpr, GROUP_SCALING: tl.constexpr, PADDING_AS_TOKENS: tl.constexpr,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    y=None,  # (N, C), or None: gather sums only
    bias=None,  # (C,)
    mean=None,  # (C,), or None: not centred
    psi2=None,  # (C,), or None: psi is 1
    squares=None,  # (P, C) receives the sums of z^2 over real tokens, or None: write y only
    counts=None,  # (P,) receives the number of real tokens
    updates=None,  # PN's update count, or None: no warmup
    updates_before=None,  # scalar: the count before the step; the pass with sums writes it, the one without reads it
    warmup_updates=0,
):  # fmt: skip
    """Compute y = weight z / sqrt(psi2 + EPS) + bias and the sums of z^2. Padding is not counted, and its y is 0.

    With PADDING_AS_TOKENS, padding is normalized like tokens but still not counted. Only then is x read at padding.

    Whether PN is in its warmup is known only on the device. If it is, the pass with sums writes no y, and the pass
    without sums writes y with the batch's psi2. Otherwise the pass without sums ends immediately.
    """
    block, program = tl.program_id(0), tl.program_id(1)
    channels, inside = block_channels(C, WIDTH, COLUMNS)
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
        scale = load_vector(weight, channels, inside, T)
        if psi2 is not None:
            scale *= inverse_root(psi2, channels, inside, EPS, T)
        if bias is not None:
            offset = load_vector(bias, channels, inside, T)
    if mean is not None:
        centre = load_vector(mean, channels, inside, T)
    sum_squares = tl.zeros((ROWS, COLUMNS), T)
    real_tokens = tl.zeros((ROWS,), T)
    for start in tl.range(program * ROWS, tokens, tl.num_programs(1) * ROWS):
        token, exists, real = tile_tokens(start, tokens, padding, sentences, padding_sentence, padding_time, ROWS)
        at = token[:, None] * C + channels[None, :]
        there = exists[:, None] & inside[None, :]
        read = exists if PADDING_AS_TOKENS else real
        z = tl.load(x + at, mask=read[:, None] & there, other=0.0).to(T)
        if mean is not None:
            z -= centre[None, :]
        if GROUP_SCALING:
            z *= inverse_group_rms(z, EPS, WIDTH)
        if squares is not None:
            sum_squares += tl.where(real[:, None], z * z, 0.0)
            real_tokens += real.to(T)
        if y is not None:  # noqa: SIM102  (evaluated by the compiler, the next condition by the GPU)
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


@triton.jit(do_not_specialize=UNSPECIALIZED)
def backward(
    g,  # (N, C)
    x,  # (N, C)
    weight,  # (C,)
    tokens, padding, sentences, padding_sentence, padding_time,
    EPS: tl.constexpr, T: tl.constexpr, C: tl.constexpr, GROUP_SCALING: tl.constexpr, PADDING_AS_TOKENS: tl.constexpr,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    dx=None,  # (N, C), or None: gather sums only
    mean=None,  # (C,)
    psi2=None,  # (C,) as the forward divided by, or None: psi is 1
    psi2_backward=None,  # (C,) as dL/dz divides by
    nu=None,  # (C,), or None: a fixed psi
    shift=None,  # (C,)
    sums=None,  # (2 or 3, P, C) receives the sums of g z, g and, with nu, z^2; or None: write dx only
    NU_SCALE: tl.constexpr = 1.0,
):  # fmt: skip
    """Compute dL/dz = (weight g - NU_SCALE nu z / sqrt(psi2 + EPS) - shift) / sqrt(psi2_backward + EPS) and the sums.

    With group scaling, z = r x, dL/dx = r (dL/dz - z mean(z dL/dz)) with the mean over the group. Padding is neither
    read nor counted, and its dL/dx is 0; with PADDING_AS_TOKENS it is treated like tokens.
    """
    program = tl.program_id(1)
    channels, inside = block_channels(C, WIDTH, COLUMNS)
    if dx is not None:
        of_g = load_vector(weight, channels, inside, T)
        if psi2_backward is not None:
            inverse = inverse_root(psi2_backward, channels, inside, EPS, T)
            of_g *= inverse
        if nu is not None:
            of_z = -NU_SCALE * load_vector(nu, channels, inside, T) * inverse
            of_z *= inverse_root(psi2, channels, inside, EPS, T)
        if shift is not None:
            constant = -load_vector(shift, channels, inside, T) * inverse
    if mean is not None:
        centre = load_vector(mean, channels, inside, T)
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
            rms = inverse_group_rms(z, EPS, WIDTH)
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
            tl.store(dx + at, dz.to(dx.dtype.element_ty), mask=exists[:, None] & inside[None, :])
    if sums is not None:
        table = tl.num_programs(1) * C
        row = sums + program * C + channels
        tl.store(row, tl.sum(sum_gz, axis=0), mask=inside)
        tl.store(row + table, tl.sum(sum_g, axis=0), mask=inside)
        if nu is not None:
            tl.store(row + 2 * table, tl.sum(sum_zz, axis=0), mask=inside)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def end_backward(
    sums,  # (2 or 3, P, C): of g z, g and, with nu, z^2
    grad_weight,  # (C,)
    grad_bias,  # (C,) or None
    weight,
    psi2,  # (C,) or None
    count,  # scalar: tokens in the means, or None: all positions
    tokens,
    programs,
    means,  # (1 or 2, C) receives mean(x~ x^) and, with CENTRED, mean(weight g); or None
    nu,  # (C,) PN's ``ema_gz``, which is updated if ``means`` is None; or None: x~ = weight g
    NU_SCALE: tl.constexpr, NEW_WEIGHT: tl.constexpr, CENTRED: tl.constexpr, EPS: tl.constexpr,
    T: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dL/dweight, dL/dbias and mean(x~ x^) = (weight dL/dweight - NU_SCALE nu sum(z^2) / (psi2 + EPS)) / tokens."""
    channels, inside = block_channels(C, COLUMNS, COLUMNS)
    table = programs * C
    of_weight = add_up(sums, channels, inside, programs, C, ROWS, COLUMNS)
    if psi2 is not None:
        inverse = inverse_root(psi2, channels, inside, EPS, T)
        of_weight *= inverse
    tl.store(grad_weight + channels, of_weight.to(grad_weight.dtype.element_ty), mask=inside)
    if grad_bias is not None:
        of_bias = add_up(sums + table, channels, inside, programs, C, ROWS, COLUMNS)
        tl.store(grad_bias + channels, of_bias.to(grad_bias.dtype.element_ty), mask=inside)
    scale = load_vector(weight, channels, inside, T)
    mean = scale * of_weight
    if nu is not None:
        old = load_vector(nu, channels, inside, T)
        sum_zz = add_up(sums + 2 * table, channels, inside, programs, C, ROWS, COLUMNS)
        mean -= NU_SCALE * old * sum_zz * inverse * inverse
    number = tl.maximum(tokens.to(T) if count is None else tl.load(count), 1.0)
    if means is not None:
        tl.store(means + channels, mean / number, mask=inside)
        if CENTRED:
            tl.store(means + C + channels, scale * of_bias / number, mask=inside)
    elif nu is not None:
        step = NEW_WEIGHT * mean / number
        step = tl.where(tl.abs(step) < float("inf"), step, 0.0)  # neither infinite nor NaN, as after an overflow
        tl.store(nu + channels, old + step, mask=inside)
