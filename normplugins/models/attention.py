"""Multi-head softmax attention over (T, B, C) tensors, and its additive masks.

Every mask leaves each query at least one key, because softmax over an empty set is NaN, and testing for that case
(``padding_mask.any()``) would make the host wait for the device.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normplugins.models.linear import Linear
from normplugins.models.varlen import VarlenLayout, padded_layout, uses_varlen_attention, varlen_attention

BuildNorm = Callable[[], nn.Module | None]
"""Builds a norm for queries or keys; returns None for attention without such norms."""

MAX_UNFUSED_QUERIES = 16
"""With at most this many queries per sentence, as in decoding, plain matrix products are 2 to 4 times as fast as fused
attention on a CPU."""


class Cache:
    """Cache of incremental decoding: keys and values, (B, H, T, C/H) each; None before the first step."""

    stored: tuple[Tensor, Tensor] | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of the last tokens; return all of them."""
        if self.stored is not None:
            old_k, old_v = self.stored
            k, v = torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2)
        self.stored = k, v
        return k, v

    def reorder(self, order: Tensor) -> None:
        """Replace row i by row ``order[i]``."""
        if self.stored is not None:
            k, v = self.stored
            self.stored = k.index_select(0, order), v.index_select(0, order)


def cache_of(incremental_state: dict[str, Cache] | None, name: str) -> Cache | None:
    """Return the cache of this name, a new one at the first step; None without an ``incremental_state``."""
    return None if incremental_state is None else incremental_state.setdefault(name, Cache())


def _additive(keep: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(keep, dtype=dtype).masked_fill_(~keep, -torch.inf)


def padding_attention_mask(padding_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an additive mask (B, 1, 1, S) that hides padding keys, from a bool mask (B, S), True = padding.

    A sentence that is all padding attends to all its positions, which keeps its output finite; nothing reads that
    output.
    """
    keep = ~padding_mask | padding_mask.all(dim=1, keepdim=True)
    return _additive(keep[:, None, None, :], dtype)


def causal_attention_mask(padding_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an additive mask (B, 1, T, T) that hides later keys and padding keys, from a bool mask (B, T).

    Row t equals ``padding_attention_mask`` of the first t tokens, as token-by-token decoding needs.
    """
    length = padding_mask.size(1)
    past = torch.ones(length, length, dtype=torch.bool, device=padding_mask.device).tril()
    nothing_real_yet = (~padding_mask).cumsum(dim=1).eq(0)
    keep = past & (~padding_mask[:, None, :] | nothing_real_yet[:, :, None])
    return _additive(keep[:, None], dtype)


class _Attention(nn.Module):
    """Base of self- and cross-attention with H heads and C channels: dropout of attention weights, output projection.

    ``qk_norm`` builds a norm of C/H channels. It is called once for the queries and once for the keys
    of all heads.
    """

    def __init__(self, dim: int, heads: int, dropout: float, qk_norm: BuildNorm = lambda: None) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_norm, self.k_norm = qk_norm(), qk_norm()
        self.out = Linear(dim, dim)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split x (T, B, parts * C) into ``parts`` tensors (B, H, T, C/H)."""
        time, batch, width = x.shape
        return x.view(time, batch, parts, self.heads, width // (parts * self.heads)).permute(2, 1, 3, 0, 4).unbind(0)

    def _normalize(self, packed: Tensor, *norms: nn.Module | None) -> Tensor:
        """Normalize each part of (..., parts * C) by its norm, over the C/H channels of each head; None: unchanged."""
        if all(norm is None for norm in norms):
            return packed
        parts = []
        for part, norm in zip(packed.chunk(len(norms), dim=-1), norms, strict=True):
            parts.append(part if norm is None else norm(part.reshape(-1, part.size(-1) // self.heads)).view_as(part))
        return torch.cat(parts, dim=-1)

    @property
    def _p(self) -> float:
        return self.dropout if self.training else 0.0

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if not self.training and mask is not None and q.is_cpu and q.size(2) <= MAX_UNFUSED_QUERIES:
            x = F.softmax(q * q.size(3) ** -0.5 @ k.transpose(2, 3) + mask, dim=-1) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self._p)
        return self.out(x.permute(2, 0, 1, 3).flatten(2))


def _init_projections(linear: nn.Linear, parts: int) -> None:
    """Initialize each of the packed projections Xavier-uniformly with gain 1/sqrt(2); keep nn.Linear's biases."""
    for weight in linear.weight.detach().chunk(parts):
        nn.init.xavier_uniform_(weight, gain=1 / math.sqrt(2))


class SelfAttention(_Attention):
    """Self-attention; the query, key and value projections are packed into one matrix (3C, C)."""

    def __init__(self, dim: int, heads: int, dropout: float, qk_norm: BuildNorm = lambda: None) -> None:
        super().__init__(dim, heads, dropout, qk_norm)
        self.qkv = Linear(dim, 3 * dim)
        _init_projections(self.qkv, 3)

    def queries_keys_values(self, x: Tensor) -> Tensor:
        """Return queries, keys and values (..., 3 * C) of x (..., C)."""
        return self._normalize(self.qkv(x), self.q_norm, self.k_norm, None)

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: Cache | None = None, layout: VarlenLayout | None = None
    ) -> Tensor:
        """Return the attention output in x's shape: (T, B, C), or (N, C) at the positions of ``layout``.

        With a cache, x holds the last tokens, which also attend to the cached ones.
        """
        packed = self.queries_keys_values(x)
        if cache is None and (layout or uses_varlen_attention(x, self._p, x.size(0))):
            layout = layout or padded_layout(*x.shape[:2])
            return self.out(
                varlen_attention(self.heads, mask, self._p, layout, layout, packed.flatten(0, -2)).view(x.shape)
            )
        q, k, v = self._split(packed, 3)
        if cache is not None:
            k, v = cache.extend(k, v)
        return self._attend(q, k, v, mask)


class CrossAttention(_Attention):
    """Attention of the target (T, B, C) to the encoder's output (S, B, C'); key and value projections are packed."""

    def __init__(
        self, dim: int, memory_dim: int, heads: int, dropout: float, qk_norm: BuildNorm = lambda: None
    ) -> None:
        super().__init__(dim, heads, dropout, qk_norm)
        self.q = Linear(dim, dim)
        self.kv = Linear(memory_dim, 2 * dim)
        _init_projections(self.q, 1)
        _init_projections(self.kv, 2)

    def queries(self, x: Tensor) -> Tensor:
        """Return the queries (..., C) of x (..., C)."""
        return self._normalize(self.q(x), self.q_norm)

    def keys_values(self, memory: Tensor) -> Tensor:
        """Return keys and values (..., 2 * C) of a memory (..., C')."""
        return self._normalize(self.kv(memory), self.k_norm, None)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None,
        cache: Cache | None = None,
        layout: VarlenLayout | None = None,
    ) -> Tensor:
        """Return the attention output in x's shape: (T, B, C), or (N, C) at the positions of ``layout``.

        With a cache, the projected memory is computed once and then reused.
        """
        if cache is None and (layout or uses_varlen_attention(x, self._p, memory.size(0))):
            targets, sources = layout or padded_layout(*x.shape[:2]), padded_layout(*memory.shape[:2])
            packed = self.queries(x).flatten(0, -2), self.keys_values(memory).flatten(0, 1)
            return self.out(varlen_attention(self.heads, mask, self._p, targets, sources, *packed).view(x.shape))
        (q,) = self._split(self.queries(x), 1)
        cached = None if cache is None else cache.stored
        k, v = self.project(memory) if cached is None else cached
        if cache is not None:
            cache.stored = k, v
        return self._attend(q, k, v, mask)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a memory (S, B, C'), (B, H, S, C/H) each."""
        k, v = self._split(self.keys_values(memory), 2)
        return k, v
