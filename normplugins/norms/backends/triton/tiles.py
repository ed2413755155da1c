"""How a kernel iterates over tokens: tiles of tokens × channels, persistent programs, and sums over programs.

x is read as N tokens of C contiguous channels, token n = t * B + b for x (T, B, C). A kernel's grid is (blocks of
channels, programs); program p computes the tiles p, p + P, p + 2 P, ... of its channels and writes, for each sum over
tokens, one row of a (P, C) table. A second, small kernel sums these rows and does the remaining work per channel, and
no torch operation runs between two passes.

Computation is in float32, or float64 for x in float64. Tile sizes depend on C but not on the number of tokens, so no
kernel is recompiled for another batch.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDEST = 8192  # the most channels of a tile, which must hold all channels of a mean over channels
TILE = 2048  # elements, 16 per thread: a pass then has about 32 KB per multiprocessor in flight
SUM_TILE = {"ROWS": 128, "COLUMNS": 16}  # tile of a sum over programs
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
# Arguments that differ between batches: Triton must not compile a kernel again for particular values of them
UNSPECIALIZED = ["tokens", "sentences", "padding_sentence", "padding_time", "programs", "warmup_updates"]
# Threads per multiprocessor: they leave 96 and 128 registers per thread, as many as the compiler uses for pn without
# spilling
FORWARD_THREADS, BACKWARD_THREADS = 640, 512


@triton.jit
def block_channels(C: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the indices (COLUMNS,) of the channels of this program's block of WIDTH, and which of them exist."""
    column = tl.arange(0, COLUMNS)
    channels = tl.program_id(0) * WIDTH + column
    return channels, (column < WIDTH) & (channels < C)


@triton.jit
def load_vector(vector, channels, inside, T: tl.constexpr):
    """Return the values (COLUMNS,) of a vector (C,); 0 for channels that do not exist."""
    return tl.load(vector + channels, mask=inside, other=0.0).to(T)


@triton.jit
def inverse_root(psi2, channels, inside, EPS: tl.constexpr, T: tl.constexpr):
    """Return 1 / sqrt(psi2 + EPS), (COLUMNS,)."""
    return tl.rsqrt(load_vector(psi2, channels, inside, T) + EPS)


@triton.jit
def tile_tokens(start, tokens, padding, sentences, padding_sentence, padding_time, ROWS: tl.constexpr):
    """Return the indices (ROWS,) of the tokens from ``start`` on, which of them exist, and which of them are real.

    ``padding`` is (B, T), uint8, with strides ``padding_sentence`` and ``padding_time``, or None.
    """
    token = start + tl.arange(0, ROWS)
    exists = token < tokens
    real = exists
    if padding is not None:
        where = (token % sentences).to(tl.int64) * padding_sentence + (token // sentences).to(tl.int64) * padding_time
        real = exists & (tl.load(padding + where, mask=exists, other=1) == 0)
    return token.to(tl.int64), exists, real


@triton.jit
def add_up(table, channels, inside, programs, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the sum (COLUMNS,) of a table (programs, C) over programs, at ``channels`` where ``inside``."""
    total = tl.zeros((ROWS, COLUMNS), table.dtype.element_ty)
    for start in tl.range(0, programs, ROWS):
        program = start + tl.arange(0, ROWS)
        at = program[:, None] * C + channels[None, :]
        total += tl.load(table + at, mask=(program < programs)[:, None] & inside[None, :], other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def count_up(counts, tokens, programs, ROWS: tl.constexpr, T: tl.constexpr):
    """Return the real tokens of all programs: the sum of ``counts`` (programs,), or ``tokens`` if that is None."""
    if counts is None:
        return tokens.to(T)
    else:  # noqa: RET505  (the compiler drops one branch)
        total = tl.zeros((ROWS,), T)
        for start in tl.range(0, programs, ROWS):
            program = start + tl.arange(0, ROWS)
            total += tl.load(counts + program, mask=program < programs, other=0.0)
        return tl.sum(total, axis=0)


class Tiles(NamedTuple):
    """Tiles of ``rows`` tokens × ``width`` channels, padded to ``columns``, a power of two."""

    width: int
    columns: int
    rows: int
    warps: int
    blocks: int


@cache
def cut_tiles(channels: int, groups: int) -> Tiles:
    """Return tiles as wide as a channel group or, with 0 groups, at most 64 channels (a cache line in 16 bits)."""
    width = channels // groups if groups else min(triton.next_power_of_2(channels), 64)
    columns = triton.next_power_of_2(width)
    elements = max(TILE, columns)
    return Tiles(width, columns, elements // columns, elements // 16 // 32, triton.cdiv(channels, width))


@cache
def _multiprocessors(device: torch.device) -> int:
    """Return the multiprocessors of a GPU; 1 in the interpreter, where fewer programs are faster."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@dataclass(frozen=True)
class Layout:
    """The tokens and channels of one x (T, B, C) with padding_mask (B, T), or (N, C) with (N,), on its device.

    ``groups`` is the number of groups of group scaling, 0 without it; with ``padding_as_tokens``, padding is normalized
    like tokens.
    """

    shape: torch.Size
    device: torch.device
    dtype: torch.dtype
    padding_mask: Tensor | None
    eps: float
    groups: int = 0
    padding_as_tokens: bool = False

    @property
    def dim(self) -> int:
        """The number of channels."""
        return self.shape[-1]

    @property
    def tokens(self) -> int:
        """The number of tokens, padding included."""
        return self.shape[:-1].numel()

    @cached_property
    def padding(self) -> Tensor | None:
        """The mask (B, T) as the kernels read it, without a copy; (1, N) for x (N, C)."""
        padding = None if self.padding_mask is None else self.padding_mask.view(torch.uint8)
        return padding if padding is None or padding.dim() == 2 else padding[None]

    @property
    def tiles(self) -> Tiles:
        """The tiles that the kernels over tokens iterate over."""
        return cut_tiles(self.dim, self.groups)

    def programs(self, threads: int) -> int:
        """Return the number of programs along the tokens that gives ``threads`` threads per multiprocessor."""
        most = _multiprocessors(self.device) * threads // (32 * self.tiles.warps * self.tiles.blocks)
        return max(1, min(triton.cdiv(self.tokens, self.tiles.rows), most))

    def empty(self, *shape: int) -> Tensor:
        """Return an empty tensor of the computation's dtype."""
        return torch.empty(shape, dtype=torch.promote_types(self.dtype, torch.float32), device=self.device)

    def table(self, sums: int, threads: int) -> Tensor:
        """Return an empty table (sums, P, C) for the sums of P programs."""
        return self.empty(sums, self.programs(threads), self.dim)

    def scaling(self) -> dict[str, object]:
        """Return the constants of the forward and the backward kernel besides the tiles."""
        return {"EPS": self.eps, "GROUP_SCALING": self.groups > 0, "PADDING_AS_TOKENS": self.padding_as_tokens}

    def over_tokens(self, kernel: Any, programs: int, **arguments: object) -> None:
        """Launch a kernel over the tiles, with this number of programs along the tokens."""
        padding, tiles = self.padding, self.tiles
        strides = (0, 0) if padding is None else padding.stride()
        with self._current_device():
            kernel[tiles.blocks, programs](
                **arguments, tokens=self.tokens, padding=padding, padding_sentence=strides[0], padding_time=strides[1],
                sentences=max(self.shape[1], 1) if len(self.shape) == 3 else 1, T=self._type, C=self.dim,
                WIDTH=tiles.width, COLUMNS=tiles.columns, ROWS=tiles.rows, num_warps=tiles.warps,
            )  # fmt: skip

    def over_channels(self, kernel: Any, **arguments: object) -> None:
        """Launch a kernel that sums a table over programs."""
        with self._current_device():
            grid = (triton.cdiv(self.dim, SUM_TILE["COLUMNS"]),)
            kernel[grid](**arguments, tokens=self.tokens, T=self._type, C=self.dim, **SUM_TILE)

    @property
    def _type(self) -> tl.dtype:
        return TYPES[torch.promote_types(self.dtype, torch.float32)]

    def _current_device(self) -> AbstractContextManager[object]:
        """Make x's GPU the current device, on which Triton launches."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
