"""Incremental decoding with a key-value cache that the hypotheses of a sentence share."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from normplugins.models.attention import CrossAttention, SelfAttention, padding_attention_mask
from normplugins.models.transformer import EncoderOut, NormTransformerDecoder

SPARE = 8
"""Compacting the cache makes room for at least this number of steps."""


class _Attention:
    """An attention module of a layer, with its key-value cache.

    Args:
        module: the layer's attention.
        keys_and_values: (2, B, H, slots, C/H).
    """

    def __init__(self, module: SelfAttention | CrossAttention, keys_and_values: Tensor) -> None:
        self.heads, self.out = module.heads, module.out
        self.query = module.queries_keys_values if isinstance(module, SelfAttention) else module.queries
        self.set_cache(keys_and_values)

    def set_cache(self, keys_and_values: Tensor) -> None:
        """Replace the cache."""
        self.kv = keys_and_values
        self.k, self.v = keys_and_values.flatten(1, 2).unbind()

    def __call__(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend from x (N, C) to the slots that the additive mask (B * H, n or 1, slots) leaves visible.

        Self-attention first writes the keys and values of x into the last slots that the mask covers. Returns
        (N, C).
        """
        batch, width, used = self.kv.size(1), self.kv.size(4), mask.size(2)
        count = len(x) // batch
        q, *new = self.query(x).view(batch, count, -1, self.heads, width).unbind(2)
        for cache, values in zip(self.kv, new, strict=False):  # cross-attention has no new keys and values
            cache[:, :, used - count : used] = values.transpose(1, 2)
        q = q.transpose(1, 2).reshape(batch * self.heads, count, width)
        scores = torch.baddbmm(mask, q, self.k[:, :used].mT, alpha=width**-0.5)
        x = torch.bmm(scores.softmax(-1), self.v[:, :used]).view(batch, self.heads, count, width)
        return self.out(x.transpose(1, 2).reshape(batch * count, self.heads * width))


class _Layer:
    """The key-value caches of a decoder layer: one for the source, and one for the generated tokens."""

    def __init__(self, layer: Any, memory: Tensor) -> None:
        source = torch.stack(layer.cross_attention.sublayer.project(memory))
        self.memory = _Attention(layer.cross_attention.sublayer, source)
        two, batch, heads, _, width = source.shape
        self.written = _Attention(layer.self_attention.sublayer, source.new_empty(two, batch, heads, 1, width))


class DecodingState:
    """A decoder and its key-value cache for B sentences with n hypotheses each, all of one length.

    The hypotheses of a sentence share its cache slots, and a mask says which slots each hypothesis sees. A new
    hypothesis sees the slots of the hypothesis that it continues, so reordering hypotheses copies nothing. When the
    cache is full, slots that no hypothesis sees are dropped.

    Args:
        decoder: the decoder, in evaluation mode.
        encoder_out: the encoder's output for the B sentences.
    """

    def __init__(self, decoder: NormTransformerDecoder, encoder_out: EncoderOut) -> None:
        memory, padding_mask = encoder_out["encoder_out"][0], encoder_out["encoder_padding_mask"][0]
        self.decoder, self.length, self.device = decoder, 0, memory.device
        self.heads = decoder.cfg.decoder_attention_heads
        self.layers = [_Layer(layer, memory) for layer in decoder.layers]
        self.memory_mask = padding_attention_mask(padding_mask, memory.dtype).expand(-1, self.heads, -1, -1)
        self.used = 0
        # additive: 0 where a hypothesis (B * n) sees a slot
        self.sees = memory.new_zeros(memory.size(1), 1)

    def logits(self, tokens: Tensor, origins: Tensor | None = None, sentences: Tensor | None = None) -> Tensor:
        """Decode one more token of each hypothesis.

        Args:
            tokens: the last token of each hypothesis, (B, n).
            origins: for each hypothesis, the index of the previous step's hypothesis that it continues, (B * n,),
                counted over all sentences of that step; None at the first step.
            sentences: indices of the previous step's sentences that continue, ascending, (B,); None: all.

        Returns:
            The logits of the next tokens, (B * n, V).
        """
        batch, count = tokens.shape
        if origins is not None:
            self.sees = self.sees.index_select(0, origins)
        if sentences is not None:
            self.memory_mask = self.memory_mask[sentences]
            for layer in self.layers:
                layer.memory.set_cache(layer.memory.kv.index_select(1, sentences))
        if sentences is not None or self.used + count > self.sees.size(1):
            self._compact(batch, sentences, SPARE * count)
        sees = self.sees.view(batch, count, -1)
        alone = torch.full((count, count), -math.inf, device=tokens.device, dtype=self.sees.dtype).fill_diagonal_(0)
        sees[:, :, self.used : self.used + count] = alone
        self.used += count
        self.length += 1
        mask = sees[:, None, :, : self.used].expand(-1, self.heads, -1, -1).flatten(0, 1)
        memory_mask = self.memory_mask.flatten(0, 1)
        attentions = [
            (partial(layer.written, mask=mask), partial(layer.memory, mask=memory_mask)) for layer in self.layers
        ]
        return self.decoder.step(tokens.flatten(), self.length, attentions)

    def _compact(self, batch: int, sentences: Tensor | None, room: int) -> None:
        """Keep only the slots that a hypothesis of these sentences sees, and add free ones.

        The number of free slots is ``room``, or half the number of the kept slots if that is larger.
        """
        sees = self.sees[:, : self.used].view(batch, -1, self.used)
        seen = sees.eq(0).any(dim=1)
        used = int(seen.sum(dim=1).max())
        room = max(room, used // 2)
        slots = seen.byte().argsort(dim=1, descending=True, stable=True)[:, :used]
        sees = sees.gather(2, slots[:, None].expand(-1, sees.size(1), -1))
        self.sees = F.pad(sees, (0, room), value=-math.inf).flatten(0, 1)
        if sentences is None:
            sentences = torch.arange(batch, device=slots.device)
        slots = F.pad(slots, (0, room))
        two, before, heads, old, width = self.layers[0].written.kv.shape
        part = torch.arange(two, device=slots.device)[:, None] * before + sentences
        first = part[:, :, None] * heads + torch.arange(heads, device=slots.device)
        rows = (first[..., None] * old + slots[:, None]).flatten()
        for layer in self.layers:
            kv = layer.written.kv.view(-1, width).index_select(0, rows)
            layer.written.set_cache(kv.view(two, batch, heads, slots.size(1), width))
        self.used = used
