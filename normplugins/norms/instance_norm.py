"""InstanceNorm (arXiv 1607.08022): y = weight (x - mu) / sqrt(sigma^2 + eps) + bias, by sentence and channel.

mu and sigma^2 are the mean and (biased) variance of a channel over the real tokens of one sentence, in training and at
evaluation alike: nothing is kept, and no sentence sees another. But **every position sees the whole sentence, what
comes after it included, at evaluation too** (``sees_sentence``). It is a norm for encoders; a language model with it
is none, whatever its attention hides.

A sentence of one token has variance 0: its output is the bias, whatever the token, and its gradient is 0. A sentence of
padding alone divides by 1.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from normplugins.norms.registry import register_norm
from normplugins.norms.statistics import mean_over, token_rows, zero_padding


@register_norm("instance")
class InstanceNorm(nn.Module):
    """InstanceNorm of ``dim`` channels over (T, B, C); ``weight`` and ``bias`` (C,), from 1 and 0; no buffers.

    Padding's output is 0. Rows (N, C) do not say where a sentence ends, so ``forward`` raises ValueError for them.
    """

    sees_sentence: ClassVar[bool] = True

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Normalize x (T, B, C), each sentence by itself; padding_mask (B, T)."""
        if x.dim() != 3:
            raise ValueError(f"instance: needs sentences, x (T, B, {self.dim}), not rows {tuple(x.shape)}")
        rows, tokens = token_rows(x, padding_mask, self.dim)
        sentences = rows.view(x.shape)
        real = None if tokens is None else tokens.view(*x.shape[:2], 1)
        sentences = zero_padding(sentences, real)
        count = sentences.new_full((), x.size(0)) if real is None else real.sum(0).to(rows.dtype)  # (B, 1)
        centred = zero_padding(sentences - mean_over(sentences, count), real)
        scale = torch.rsqrt(mean_over(centred.square(), count) + self.eps)  # (B, C)
        y = torch.addcmul(self.bias.to(rows.dtype), centred, self.weight.to(rows.dtype) * scale)
        return zero_padding(y, real).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the settings: ``512, eps=1e-05``."""
        return f"{self.dim}, eps={self.eps}"
