"""Variable-length (unpadded) attention for training on a CPU.

It computes the same as ``scaled_dot_product_attention``, in one autograd function, for two reasons. First, it draws our
own dropout masks (``dropout.py``). Second, it brings projections (T, B, C) into the order (B, H, T, C/H), in which a
CPU multiplies the heads' matrices fast, with one copy in each direction; PyTorch's own operations make eleven copies in
a forward and a backward pass. Rows are selected by index, so padding can be left out: a stack of per-token norms does
all its work on the real tokens alone (``VarlenLayout.from_padding_mask``).
"""

from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normplugins.models.dropout import draw_seed, has_kernel, run_kernel
from normplugins.norms.backends.dispatch import is_plain_tensor

MAX_KEYS = 512
"""With more keys and no dropout, PyTorch's attention is used, because it does not store the T x S weights."""


class VarlenLayout:
    """The position (t, b) of each row of an unpadded tensor (N, C).

    Args:
        time: T.
        batch: B.
        tokens: (N,), the positions t * B + b that have a row, in ascending order; None: all have one, N = T * B.
    """

    def __init__(self, time: int, batch: int, tokens: Tensor | None = None) -> None:
        self.time, self.batch, self.tokens = time, batch, tokens
        self._cached_indices: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._missing: dict[int, Tensor] = {}

    @classmethod
    def from_padding_mask(cls, padding_mask: Tensor) -> "VarlenLayout":
        """Return the layout of the real tokens of a mask (B, T), True = padding; for masks on a CPU only."""
        batch, time = padding_mask.shape
        tokens = (~padding_mask).t().flatten().nonzero().flatten()
        return cls(time, batch, tokens if 0 < len(tokens) < time * batch else None)

    def unpad(self, x: Tensor) -> Tensor:
        """Remove padding: (T, B, C) to (N, C)."""
        x = x.flatten(0, 1)
        return x if self.tokens is None else x.index_select(0, self.tokens)

    def pad(self, rows: Tensor) -> Tensor:
        """Restore padding: (N, C) to (T, B, C), zero at positions without a row."""
        if self.tokens is not None:
            rows = rows.new_zeros(self.time * self.batch, rows.size(1)).index_copy(0, self.tokens, rows)
        return rows.view(self.time, self.batch, rows.size(1))

    def to_heads(self, rows: Tensor, heads: int, parts: int) -> Tensor:
        """Return (parts, B * H, T, C/H) of rows (N, parts * C); positions without a row get a copy of the first row."""
        width = rows.size(1) // (parts * heads)
        index, _ = self._indices(heads, parts)
        return rows.reshape(-1, width).index_select(0, index).view(parts, self.batch * heads, self.time, width)

    def from_heads(self, x: Tensor, heads: int, parts: int) -> Tensor:
        """Return (N, parts * C) of x (parts, B * H, T, C/H): the inverse of :meth:`to_heads`."""
        width = x.size(-1)
        _, index = self._indices(heads, parts)
        return x.reshape(-1, width).index_select(0, index).view(-1, parts * heads * width)

    def zero_padding(self, x: Tensor, heads: int) -> Tensor:
        """Set x (B * H, T, C/H) to zero in place at positions without a row, and return it."""
        if self.tokens is None:
            return x
        if heads not in self._missing:
            missing = torch.ones(self.time * self.batch, dtype=torch.bool).index_fill_(0, self.tokens, False)
            of_heads = missing.view(self.time, self.batch).t()[:, None].expand(-1, heads, -1)
            self._missing[heads] = of_heads.flatten().nonzero().flatten()
        x.flatten(0, 1).index_fill_(0, self._missing[heads], 0)
        return x

    def _indices(self, heads: int, parts: int) -> tuple[Tensor, Tensor]:
        """Return the indices by which :meth:`to_heads` and :meth:`from_heads` select vectors of C/H numbers."""
        if (heads, parts) in self._cached_indices:
            return self._cached_indices[heads, parts]
        time, batch = self.time, self.batch
        tokens = torch.arange(time * batch) if self.tokens is None else self.tokens
        part, h = torch.arange(parts), torch.arange(heads)
        row = torch.zeros(time * batch, dtype=torch.int64).index_copy_(0, tokens, torch.arange(len(tokens)))
        row = row.view(time, batch).t()[:, None]
        to_heads = (row * parts + part[:, None, None, None]) * heads + h[:, None]
        t, b = (tokens // batch)[:, None, None], (tokens % batch)[:, None, None]
        from_heads = ((part[:, None] * batch + b) * heads + h) * time + t
        self._cached_indices[heads, parts] = to_heads.flatten(), from_heads.flatten()
        return self._cached_indices[heads, parts]


@lru_cache(maxsize=4)  # shared by the layers of a model: its indices take 0.3 ms each to make
def padded_layout(time: int, batch: int) -> VarlenLayout:
    """Return the layout in which every position has a row, padding too."""
    return VarlenLayout(time, batch)


def uses_varlen_attention(x: Tensor, p: float, keys: int) -> bool:
    """Whether :func:`varlen_attention` is used for this input, dropout probability and number of keys."""
    if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling() or not is_plain_tensor(x):
        return False
    return has_kernel(x, p) if p > 0 else keys <= MAX_KEYS


def varlen_attention(
    heads: int, mask: Tensor | None, p: float, targets: VarlenLayout, sources: VarlenLayout, *packed: Tensor
) -> Tensor:
    """Compute multi-head softmax attention between unpadded tokens.

    Args:
        heads: H.
        mask: additive, broadcast to (B, H, T, S), without a gradient; -inf at each key that has no row.
        p: probability of dropping an attention weight; 0 at evaluation.
        targets: layout of the T queries.
        sources: layout of the S keys and values.
        packed: the projected queries, keys and values, (N, 3 C); or queries (N, C), and keys and values (M, 2 C).

    Returns:
        (N, C).
    """
    with torch.autocast("cpu", enabled=False):  # the backward pass expects the dtypes of the forward pass
        return _Attend.apply(heads, mask, p, targets, sources, *packed)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        heads: int,
        mask: Tensor | None,
        p: float,
        targets: VarlenLayout,
        sources: VarlenLayout,
        *packed: Tensor,
    ) -> Tensor:
        ctx.heads, ctx.targets = heads, targets
        ctx.sides = ((targets, 3),) if len(packed) == 1 else ((targets, 1), (sources, 2))
        in_heads = [layout.to_heads(x, heads, parts) for x, (layout, parts) in zip(packed, ctx.sides, strict=True)]
        q, k, v = (part for x in in_heads for part in x)
        scores = torch.bmm(q, k.mT).mul_(q.size(-1) ** -0.5)
        if mask is not None:
            scores.view(targets.batch, heads, targets.time, sources.time).add_(mask)
        weights = scores.softmax(-1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.drop = partial(run_kernel, p=p, seed=draw_seed()) if p > 0 else lambda x: x
        return targets.from_heads(torch.bmm(ctx.drop(weights), v), heads, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        (g,) = ctx.targets.to_heads(gradient, ctx.heads, 1)
        g = ctx.targets.zero_padding(g, ctx.heads)
        gradients = [q.new_empty(parts, q.size(0), layout.time, q.size(-1)) for layout, parts in ctx.sides]
        to_q, to_k, to_v = (part for x in gradients for part in x)
        torch.bmm(ctx.drop(weights).mT, g, out=to_v)
        of_weights = ctx.drop(torch.bmm(g, v.mT))
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype).mul_(q.size(-1) ** -0.5)
        torch.bmm(of_scores, k, out=to_q)
        torch.bmm(of_scores.mT, q, out=to_k)
        packed = (
            layout.from_heads(x, ctx.heads, parts) for x, (layout, parts) in zip(gradients, ctx.sides, strict=True)
        )
        return None, None, None, None, None, *packed
