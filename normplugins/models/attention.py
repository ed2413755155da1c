"""Multi-head softmax attention over (T, B, C) tensors, and the additive masks that it takes.

All masks are built so that no query is left without a key: softmax over an empty set is NaN, and asking whether there
is one (``padding_mask.any()``) would make the host wait for the device.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normplugins.models.varlen import VarlenLayout, uses_varlen_attention, varlen_attention

FEW = 16
"""Up to so many queries a sentence, as in decoding, plain products are 2 to 4 times as fast as fused ones on a CPU."""


class Cache:
    """Keys and values (B, H, T, C/H) that incremental decoding keeps from step to step."""

    k: Tensor | None = None
    v: Tensor | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of the newest tokens; returns all."""
        if self.k is not None and self.v is not None:
            k, v = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)
        self.k, self.v = k, v
        return k, v

    def reorder(self, order: Tensor) -> None:
        """Let row i be what row ``order[i]`` was."""
        if self.k is not None and self.v is not None:
            self.k, self.v = self.k.index_select(0, order), self.v.index_select(0, order)


def _additive(keep: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(keep, dtype=dtype).masked_fill_(~keep, -torch.inf)


def padding_attention_mask(padding_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Hide padding keys: (B, S) bool, True = padding, to an additive (B, 1, 1, S).

    A sentence of nothing but padding sees all of it: finite, and nobody reads it.
    """
    keep = ~padding_mask | padding_mask.all(dim=1, keepdim=True)
    return _additive(keep[:, None, None, :], dtype)


def causal_attention_mask(padding_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Hide the future and padding keys: (B, T) bool to an additive (B, 1, T, T).

    Row t is ``padding_attention_mask`` of the first t tokens, which is what decoding token by token uses.
    """
    length = padding_mask.size(1)
    past = torch.ones(length, length, dtype=torch.bool, device=padding_mask.device).tril()
    nothing_real_yet = (~padding_mask).cumsum(dim=1).eq(0)
    keep = past & (~padding_mask[:, None, :] | nothing_real_yet[:, :, None])
    return _additive(keep[:, None], dtype)


class _Attention(nn.Module):
    """What self- and cross-attention share: heads, dropout on the attention weights, the output projection."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.out = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(T, B, parts*C) to ``parts`` tensors (B, H, T, C/H)."""
        time, batch, width = x.shape
        return x.view(time, batch, parts, self.heads, width // (parts * self.heads)).permute(2, 1, 3, 0, 4).unbind(0)

    @property
    def _p(self) -> float:
        return self.dropout if self.training else 0.0

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if not self.training and mask is not None and q.is_cpu and q.size(2) <= FEW:
            x = F.softmax(q * q.size(3) ** -0.5 @ k.transpose(2, 3) + mask, dim=-1) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self._p)
        return self.out(x.permute(2, 0, 1, 3).flatten(2))


def _init_projections(linear: nn.Linear, parts: int) -> None:
    """Xavier-uniform with gain 1/sqrt(2) for each projection of a packed one; biases stay torch.nn.Linear's own."""
    for weight in linear.weight.detach().chunk(parts):
        nn.init.xavier_uniform_(weight, gain=1 / math.sqrt(2))


class SelfAttention(_Attention):
    """Attention of a sequence to itself; query, key and value projections packed into one matrix (3C, C)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__(dim, heads, dropout)
        self.qkv = nn.Linear(dim, 3 * dim)
        _init_projections(self.qkv, 3)

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: Cache | None = None, layout: VarlenLayout | None = None
    ) -> Tensor:
        """x (T, B, C), or (N, C) where ``layout`` says which positions these are, to the same shape.

        With a cache, x holds the newest tokens and sees the cached ones before them.
        """
        packed = self.qkv(x)
        if cache is None and (layout or uses_varlen_attention(x, self._p, x.size(0))):
            layout = layout or VarlenLayout(*x.shape[:2])
            return self.out(
                varlen_attention(self.heads, mask, self._p, layout, layout, packed.flatten(0, -2)).view(x.shape)
            )
        q, k, v = self._split(packed, 3)
        if cache is not None:
            k, v = cache.extend(k, v)
        return self._attend(q, k, v, mask)


class CrossAttention(_Attention):
    """Attention of the target (T, B, C) to the encoder's output (S, B, C'); keys and values packed into one matrix."""

    def __init__(self, dim: int, memory_dim: int, heads: int, dropout: float) -> None:
        super().__init__(dim, heads, dropout)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(memory_dim, 2 * dim)
        _init_projections(self.q, 1)
        _init_projections(self.kv, 2)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None,
        mask: Tensor | None,
        cache: Cache | None = None,
        layout: VarlenLayout | None = None,
    ) -> Tensor:
        """x (T, B, C), or (N, C) where ``layout`` says which positions these are, to the same shape.

        With a cache, the projected memory is computed once and then reused.
        """
        if cache is None and memory is not None and (layout or uses_varlen_attention(x, self._p, memory.size(0))):
            targets, sources = layout or VarlenLayout(*x.shape[:2]), VarlenLayout(*memory.shape[:2])
            packed = self.q(x).flatten(0, -2), self.kv(memory).flatten(0, 1)
            return self.out(varlen_attention(self.heads, mask, self._p, targets, sources, *packed).view(x.shape))
        (q,) = self._split(self.q(x), 1)
        if cache is not None and cache.k is not None and cache.v is not None:
            k, v = cache.k, cache.v
        else:
            assert memory is not None
            k, v = self.project(memory)
            if cache is not None:
                cache.extend(k, v)
        return self._attend(q, k, v, mask)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of a memory (S, B, C'), (B, H, S, C/H) each."""
        k, v = self._split(self.kv(memory), 2)
        return k, v
