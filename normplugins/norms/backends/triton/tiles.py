"""How a kernel iterates over tokens: tiles of tokens × channels, persistent programs, and sums over programs.

x is taken as N tokens of C contiguous channels, token n = t * B + b for x (T, B, C). A kernel's grid is (blocks of
channels, programs); program p computes the tiles p, p + P, p + 2 P, ... of its channels and writes, for each sum over
tokens, one row of a (P, C) table. A second, small kernel sums these rows and does the remaining work per channel, so
that no torch operation runs between two passes.

Computation is in float32, or float64 for x in float64. Sizes depend on C only and not on the number of tokens, so that
no kernel is recompiled for another batch.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from normplugins.norms.deferred_residual import DeferredResidual
from normplugins.norms.statistics import check_shapes

WIDEST = 8192  # the most channels of a tile, which must hold all channels of a mean over channels
TILE = 2048  # elements, 16 per thread: a pass then has some 32 KB per multiprocessor in flight
ADDING = {"ROWS": 128, "COLUMNS": 16}  # tile of a sum over programs
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
COUNTS = ["tokens", "sentences", "padding_sentence", "padding_time", "programs", "warmup_updates"]  # no constants
# Threads per multiprocessor: they leave 96 and 128 registers per thread, as many as the compiler uses for pn without
# spilling. A forward that computes a residual sum uses 94 to 125.
FORWARD_THREADS, SUM_THREADS, BACKWARD_THREADS = 640, 512, 512


@triton.jit
def tile_tokens(start, tokens, padding, sentences, padding_sentence, padding_time, ROWS: tl.constexpr):
    """Return the indices (ROWS,) of the tokens from ``start`` on, which of them exist, and which of these are not
    padding.

    ``padding`` (B, T) of uint8 with strides ``padding_sentence`` and ``padding_time``, or None.
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


@dataclass(frozen=True)
class Tokens:
    """The tokens of one x: their number, the number of sentences, and the padding mask (B, T) for the kernels."""

    count: int
    sentences: int
    padding: Tensor | None

    @classmethod
    def of(cls, x: Tensor, padding_mask: Tensor | None, dim: int) -> "Tokens":
        """Return the tokens of x (T, B, C) with padding_mask (B, T), or x (N, C) with padding_mask (N,), without a
        copy.

        Raises:
            ValueError: a shape does not fit; a kernel would read out of bounds.
        """
        check_shapes(x, padding_mask, dim)
        count, sentences = x.shape[:-1].numel(), x.size(1) if x.dim() == 3 else 1
        padding = None if padding_mask is None else padding_mask.bool().view(torch.uint8)
        return cls(count, max(sentences, 1), padding if padding is None or padding.dim() == 2 else padding[None])

    def arguments(self) -> dict[str, object]:
        """Return the arguments of every kernel over tokens."""
        strides = (0, 0) if self.padding is None else self.padding.stride()
        return {
            "tokens": self.count,
            "padding": self.padding,
            "sentences": self.sentences,
            "padding_sentence": strides[0],
            "padding_time": strides[1],
        }


@dataclass(frozen=True)
class Tiles:
    """Tiles of ``rows`` tokens × ``width`` channels, padded to ``columns``, a power of two."""

    width: int
    columns: int
    rows: int
    warps: int
    blocks: int

    @classmethod
    @cache
    def of(cls, channels: int, width: int) -> "Tiles":
        """Cut ``channels`` into blocks of ``width``; the last may be narrower."""
        columns = triton.next_power_of_2(width)
        elements = max(TILE, columns)
        return cls(width, columns, elements // columns, elements // 16 // 32, triton.cdiv(channels, width))


@cache
def _multiprocessors(device: torch.device) -> int:
    """Return the multiprocessors of a GPU; 1 in the interpreter, where fewer programs are faster."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@dataclass(frozen=True)
class Channels:
    """The channels of a norm: ``groups`` of group scaling (0: none), and whether padding is normalized like tokens."""

    dim: int
    eps: float
    dtype: torch.dtype
    groups: int = 0
    padding_as_tokens: bool = False

    @classmethod
    def of(
        cls, x: Tensor | DeferredResidual, eps: float | None, groups: int = 0, padding_as_tokens: bool = False
    ) -> "Channels":
        """Return the channels of x (..., C)."""
        x = x.residual if isinstance(x, DeferredResidual) else x
        dtype = torch.promote_types(x.dtype, torch.float32)
        return cls(x.size(-1), eps or 0.0, dtype, groups, padding_as_tokens)

    @cached_property
    def tiles(self) -> Tiles:
        """Tiles of one channel group, or without group scaling of 64 channels, a cache line of 16-bit numbers."""
        width = self.dim // self.groups if self.groups else min(triton.next_power_of_2(self.dim), 64)
        return Tiles.of(self.dim, width)

    def table(self, x: Tensor, tokens: Tokens, sums: int, threads: int) -> Tensor:
        """Return an empty table (sums, P, C) for the sums of P programs."""
        return self.empty(x, sums, self.programs(x, tokens, threads), self.dim)

    def programs(self, x: Tensor, tokens: Tokens, threads: int) -> int:
        """Return the number of programs along the tokens that gives ``threads`` threads per multiprocessor."""
        most = _multiprocessors(x.device) * threads // (32 * self.tiles.warps * self.tiles.blocks)
        return max(1, min(triton.cdiv(tokens.count, self.tiles.rows), most))

    def empty(self, x: Tensor, *shape: int) -> Tensor:
        """Return an empty tensor of the computation's dtype on x's device."""
        return torch.empty(shape, dtype=self.dtype, device=x.device)

    def switches(self) -> dict[str, object]:
        """Return the constants of the forward and the backward kernel besides the tiles."""
        return {"EPS": self.eps, "GROUP_SCALING": self.groups > 0, "PADDING_AS_TOKENS": self.padding_as_tokens}

    def over_tokens(self, kernel: Any, x: Tensor, tokens: Tokens, programs: int, **arguments: object) -> None:
        """Launch a kernel over the tiles of x, with so many programs along the tokens."""
        sizes = {"WIDTH": self.tiles.width, "COLUMNS": self.tiles.columns, "ROWS": self.tiles.rows}
        with _device_of(x):
            kernel[self.tiles.blocks, programs](
                x=x, **arguments, **tokens.arguments(), T=TYPES[self.dtype], C=self.dim, **sizes,
                num_warps=self.tiles.warps,
            )  # fmt: skip

    def over_channels(self, kernel: Any, x: Tensor, **arguments: object) -> None:
        """Launch a kernel that sums a table over programs, on x's device."""
        with _device_of(x):
            kernel[(triton.cdiv(self.dim, ADDING["COLUMNS"]),)](**arguments, T=TYPES[self.dtype], C=self.dim, **ADDING)


def _device_of(x: Tensor) -> AbstractContextManager[object]:
    """Make x's GPU the current device, on which Triton launches."""
    return torch.cuda.device_of(x) if x.is_cuda else nullcontext()
