"""Tensor attention (tensorized transformer, arXiv 1906.09777): a sum over pairs of tokens, without a softmax.

For a query i and tokens j, k of a segment of L, channels h, position keys r, biases u and w, and a core c:

    t_ijk = Σ_h c_h (q_i + u)_h k_jh v_kh + Σ_h c_h (q_i + w)_h r_jh v_kh        out_i = W vec(t_i)

W is C × L²; with several cores, c is their mean. In the published code j and k run over the whole segment for every i,
so every position sees the tokens after it; with ``causal`` they run up to i. A segment shorter than L has zero keys and
values at the missing tokens; their position keys remain.

:func:`contract` computes this sum in another order:

- Not causal: G_dh = Σ_jk W_djk k_jh v_kh, which is the same for all i, is computed first, and then
  out_id = Σ_h c_h (q_i + u)_h G_dh. The sum with r is computed in the same way; its Σ_j W_djk r_jh is the same for the
  whole batch. This is less work if L exceeds d_head, and a little more for PTB, where L = 32 and d_head = 40.
- Causal: queries are processed in blocks, each with the tokens up to the block's end, which halves the products.

The backward pass recomputes the products of each block, so that only one block of the L × L × d_head and L × L × L
numbers per sentence is in memory at a time.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from normplugins.models.linear import Linear

BLOCK = 8  # positions; the fastest of 8, 16 and 32 (rows tensor_attention of results/benchmarks.csv)


def contract(a: Tensor, b: Tensor, k: Tensor, r: Tensor, v: Tensor, weight: Tensor, causal: bool) -> Tensor:
    """Sum over all pairs of tokens that each query may see.

    Args:
        a: c (q + u), (B, T, H), T <= L.
        b: c (q + w), (B, T, H).
        k: keys (B, T, H), zero where padding.
        r: position keys (L, H).
        v: values (B, T, H), zero where padding.
        weight: W, (C, L, L).
        causal: hide the tokens after each query.

    Returns:
        (B, T, C).
    """
    time = k.size(1)
    blocks = [slice(start, min(start + BLOCK, time)) for start in range(0, time, BLOCK)]
    if causal:
        parts = []
        for block in blocks:
            end = block.stop
            seen = k[:, :end], r[:end], v[:, :end], weight[:, :end, :end]
            parts.append(_recomputed(_causal_block, a[:, block], b[:, block], *seen))
        return torch.cat(parts, dim=1)
    content = torch.stack([_recomputed(_pairs, k.mT[..., block], v.mT, weight[:, block, :time]) for block in blocks])
    position = torch.einsum("djk,jh,bkh->bhd", weight[:, :, :time], r, v)
    return a @ content.sum(0) + b @ position


def _causal_block(a: Tensor, b: Tensor, k: Tensor, r: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """Return the output (B, I, C) of the queries (B, I, H) at the last I of ``k.size(1)`` positions."""
    queries, tokens = a.size(1), k.size(1)
    position = torch.arange(tokens, device=a.device)
    later = position > position[tokens - queries :, None]
    pairs = a[:, :, None] * k[:, None] + b[:, :, None] * r
    t = (pairs.flatten(1, 2) @ v.mT).view(-1, queries, tokens, tokens)
    t = t.masked_fill(later[:, :, None] | later[:, None, :], 0)  # where j or k comes after the query
    return F.linear(t.flatten(2), weight.flatten(1))


def _pairs(k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """Σ_jk W_djk k_jh v_kh over a block of j: (B, H, J), (B, H, T), (C, J, T) to (B, H, C)."""
    return F.linear((k[..., None] * v[..., None, :]).flatten(2), weight.flatten(1))


def _recomputed(function: Callable[..., Tensor], *args: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)


class TensorAttention(nn.Module):
    """Single-head tensor attention over segments of ``segment`` tokens, single- or multi-core, without biases.

    Args:
        dim: width C.
        head_dim: channels of query, key, value and position key.
        segment: L.
        cores: number of core tensors, each given by its diagonal; c is their mean.
        causal: hide the tokens after each position; False as in the published code.
    """

    def __init__(self, dim: int, head_dim: int, segment: int, cores: int, causal: bool) -> None:
        super().__init__()
        self.segment, self.causal = segment, causal
        self.qkv = Linear(dim, 3 * head_dim, bias=False)
        self.position = Linear(dim, head_dim, bias=False)
        self.cores = nn.Parameter(torch.rand(cores, head_dim).softmax(dim=1))
        self.out = Linear(segment * segment, dim, bias=False)

    def forward(
        self, x: Tensor, real: Tensor, positions: Tensor, content_bias: Tensor, position_bias: Tensor
    ) -> Tensor:
        """Compute tensor attention.

        Args:
            x: (T, B, C), T <= L.
            real: (B, T, 1), False where padding.
            positions: embeddings of the L positions, (L, C).
            content_bias: u, (H,), shared by the layers of a model.
            position_bias: w, (H,), also shared by the layers.

        Returns:
            (T, B, C).
        """
        q, k, v = self.qkv(x.transpose(0, 1)).chunk(3, dim=-1)
        core = self.cores.mean(0)
        k, v = k.masked_fill(~real, 0), v.masked_fill(~real, 0)
        weight = self.out.weight.view(-1, self.segment, self.segment)
        r = self.position(positions)
        y = contract(core * (q + content_bias), core * (q + position_bias), k, r, v, weight, self.causal)
        return y.transpose(0, 1)
