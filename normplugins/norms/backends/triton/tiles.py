"""How a kernel walks over tokens: tiles of tokens × channels, programs that stay for many tiles, sums over programs.

x is taken as N tokens of C contiguous channels, token n = t * B + b for x (T, B, C). A kernel's grid is (blocks of
channels, programs); program p works through the tiles p, p + P, p + 2 P, ... of its channels and leaves, for each sum
over tokens, one row of a (P, C) table. A second, small kernel adds these rows up and does with the sum what is to be
done per channel, so that no torch operation stands between two passes.

Everything is computed and summed in float32, in float64 for x in float64. Sizes depend on C alone, never on the number
of tokens: nothing is compiled anew for another batch.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from normplugins.norms.statistics import check_shapes

WIDEST = 8192  # channels of a tile, which has all those that a token's own mean is over
TILE = 2048  # elements, 16 for each thread: a pass then holds some 32 KB a multiprocessor in flight
THREADS = 128
ADDING = {"ROWS": 128, "COLUMNS": 16}  # the tile of a sum over programs
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
COUNTS = ["tokens", "sentences", "padding_sentence", "padding_time", "programs", "warmup"]  # never compiled in


@triton.jit
def tile_tokens(start, tokens, padding, sentences, padding_sentence, padding_time, ROWS: tl.constexpr):
    """Numbers (ROWS,) of the tokens from ``start`` on, which of them there are, and which of those are not padding.

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
    """Sum (COLUMNS,) of a table (programs, C) over the programs, at ``channels`` where ``inside``."""
    total = tl.zeros((ROWS, COLUMNS), table.dtype.element_ty)
    for start in tl.range(0, programs, ROWS):
        program = start + tl.arange(0, ROWS)
        at = program[:, None] * C + channels[None, :]
        total += tl.load(table + at, mask=(program < programs)[:, None] & inside[None, :], other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def count_up(counts, tokens, programs, ROWS: tl.constexpr, T: tl.constexpr):
    """Real tokens of all programs: the sum of ``counts`` (programs,), or ``tokens`` where that is None."""
    if counts is None:
        return tokens.to(T)
    else:  # noqa: RET505  (the compiler drops one of the two branches)
        total = tl.zeros((ROWS,), T)
        for start in tl.range(0, programs, ROWS):
            program = start + tl.arange(0, ROWS)
            total += tl.load(counts + program, mask=program < programs, other=0.0)
        return tl.sum(total, axis=0)


@dataclass(frozen=True)
class Tokens:
    """The tokens of one x: how many, of how many sentences, and the padding mask (B, T) as the kernels read it."""

    count: int
    sentences: int
    padding: Tensor | None

    @classmethod
    def of(cls, x: Tensor, padding_mask: Tensor | None, dim: int) -> "Tokens":
        """Of x (T, B, C) with padding_mask (B, T), or x (N, C) with padding_mask (N,). Nothing is copied.

        Raises ValueError when a shape does not fit: a kernel would read what is not there.
        """
        check_shapes(x, padding_mask, dim)
        count, sentences = x.shape[:-1].numel(), x.size(1) if x.dim() == 3 else 1
        padding = None if padding_mask is None else padding_mask.bool().view(torch.uint8)
        return cls(count, max(sentences, 1), padding if padding is None or padding.dim() == 2 else padding[None])

    def arguments(self) -> dict[str, object]:
        """What every kernel over tokens takes."""
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
    """Tiles of ``rows`` tokens × ``width`` channels, of which a tile of ``columns`` (a power of two) holds them."""

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

    def programs(self, tokens: int, device: torch.device, threads: int) -> int:
        """Programs along the tokens, at least one, so that all together are ``threads`` a multiprocessor."""
        most = _multiprocessors(device) * threads // (32 * self.warps * self.blocks)
        return max(1, min(triton.cdiv(tokens, self.rows), most))

    def sizes(self) -> dict[str, int]:
        """What every kernel over tiles is compiled for."""
        return {"WIDTH": self.width, "COLUMNS": self.columns, "ROWS": self.rows, "num_warps": self.warps}


@cache
def _multiprocessors(device: torch.device) -> int:
    """Of a GPU; in the interpreter 1, so that few programs share the tiles."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def on(x: Tensor) -> AbstractContextManager[object]:
    """Make x's GPU the current one, which is where Triton launches."""
    return torch.cuda.device_of(x) if x.is_cuda else nullcontext()
