"""InstanceNorm (arXiv 1607.08022): y = weight (x - mu) / sqrt(sigma^2 + eps) + bias, per sentence and channel.

mu and sigma^2 are the mean and the biased variance of a channel over the real tokens of one sentence, in training and
at evaluation. There are no running statistics, and sentences are independent. However, **every position sees the whole
sentence, later tokens included, also at evaluation** (``sees_sentence``). The norm is meant for encoders; a model that
uses it is not a causal language model, whatever its attention mask hides.

A sentence of one token has variance 0: the output is the bias, whatever the token, and the gradient is 0. For a
sentence that is all padding, the number of tokens is taken as 1.
"""

from typing import ClassVar

import torch
from torch import Tensor

from normplugins.norms.base import Norm
from normplugins.norms.registry import register_norm
from normplugins.norms.settings import EpsSettings
from normplugins.norms.tokens import mean_over, token_rows, zero_padding


@register_norm("instance", EpsSettings)
class InstanceNorm(Norm):
    """InstanceNorm of each channel over one sentence's tokens, later ones included.

    The output at padding is 0. ``forward`` raises ValueError for rows (N, C), which do not show where a sentence ends.
    """

    sees_sentence: ClassVar[bool] = True

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Normalize each sentence of x (T, B, C); padding_mask (B, T)."""
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
