"""The channels of a norm: how they are cut into tiles, what is computed in, and the tables for sums over tokens."""

from dataclasses import dataclass
from functools import cached_property

import torch
import triton
from torch import Tensor

from normplugins.norms.backends.triton.tiles import TYPES, Tiles, Tokens
from normplugins.norms.deferred_residual import DeferredResidual

# Threads a multiprocessor: 96 and 128 of its registers each, as many as the compiler takes for pn, and spills none.
# A forward that adds up a residual sum takes 94 to 125.
FORWARD_THREADS, SUM_THREADS, BACKWARD_THREADS = 640, 512, 512


@dataclass(frozen=True)
class Channels:
    """A norm's channels: ``groups`` of group scaling (0: none), and whether padding is normalized like tokens."""

    dim: int
    eps: float
    dtype: torch.dtype
    groups: int = 0
    padding_as_tokens: bool = False

    @classmethod
    def of(
        cls, x: Tensor | DeferredResidual, eps: float | None, groups: int = 0, padding_as_tokens: bool = False
    ) -> "Channels":
        """Of x (..., C)."""
        x = x.residual if isinstance(x, DeferredResidual) else x
        dtype = torch.promote_types(x.dtype, torch.float32)
        return cls(x.size(-1), eps or 0.0, dtype, groups, padding_as_tokens)

    @cached_property
    def tiles(self) -> Tiles:
        """With group scaling a tile has one channel group, without 64 channels: a cache line of 16-bit numbers."""
        width = self.dim // self.groups if self.groups else min(triton.next_power_of_2(self.dim), 64)
        return Tiles.of(self.dim, width)

    def table(self, x: Tensor, tokens: Tokens, sums: int, threads: int) -> Tensor:
        """An empty table (sums, P, C) for the sums of P programs."""
        return self.empty(x, sums, self.programs(x, tokens, threads), self.dim)

    def programs(self, x: Tensor, tokens: Tokens, threads: int) -> int:
        """Programs along the tokens, so that all together are ``threads`` a multiprocessor."""
        return self.tiles.programs(tokens.count, x.device, threads)

    def empty(self, x: Tensor, *shape: int) -> Tensor:
        """A tensor for what is computed, on x's device."""
        return torch.empty(shape, dtype=self.dtype, device=x.device)

    def compiled(self) -> dict[str, object]:
        """What both kernels are compiled for."""
        switches = {"GROUP_SCALING": self.groups > 0, "PADDING_AS_TOKENS": self.padding_as_tokens}
        return {"EPS": self.eps, "T": TYPES[self.dtype], "C": self.dim, **switches, **self.tiles.sizes()}
