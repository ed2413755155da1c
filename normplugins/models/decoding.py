"""Decodes the hypotheses of a sentence side by side, with one copy of its source and of every token they share."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from normplugins.models.attention import Cache, padding_attention_mask
from normplugins.models.transformer import EncoderOut, NormTransformerDecoder

SPARE = 4
"""For how many steps a collection makes room."""


class _Slots(Cache):
    """Keys and values (B, H, slots, C/H) of one layer: those of a token in each slot."""

    def __init__(self, k: Tensor, v: Tensor, used: int) -> None:
        self.k: Tensor = k.contiguous()
        self.v: Tensor = v.contiguous()
        self.used = used

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write those of the newest tokens into the next slots; returns those of all that are in use."""
        begin, self.used = self.used, self.used + k.size(2)
        self.k[:, :, begin : self.used], self.v[:, :, begin : self.used] = k, v
        return self.k[:, :, : self.used], self.v[:, :, : self.used]

    def select(self, sentences: Tensor, slots: Tensor, used: int) -> None:
        """Keep some slots (B', n) of some sentences (B',); the first ``used`` are in use."""
        _, heads, room, width = self.k.shape
        first = sentences[:, None] * heads + torch.arange(heads, device=slots.device)
        rows = (first[:, :, None] * room + slots[:, None]).flatten()
        shape = (len(slots), heads, slots.size(1), width)
        self.k, self.v = (x.view(-1, width).index_select(0, rows).view(shape) for x in (self.k, self.v))
        self.used = used


class DecodingState:
    """A decoder, and what it has written of B sentences: n hypotheses of each, of one length, in slots they share.

    A hypothesis that goes on from another sees that one's slots: nothing is copied when a search picks and drops
    hypotheses. When the room has run out, the slots that no hypothesis sees any more are given up.

    The hypotheses of a sentence stand where other batches have time, (n, B, C): so they attend to their source as the
    tokens of one sentence would.

    Args:
        decoder: in evaluation mode.
        encoder_out: what the encoder returned for the B sentences.
    """

    def __init__(self, decoder: NormTransformerDecoder, encoder_out: EncoderOut) -> None:
        memory, padding_mask = encoder_out["encoder_out"][0], encoder_out["encoder_padding_mask"][0]
        self.decoder, self.length = decoder, 0
        self.memory_mask = padding_attention_mask(padding_mask, memory.dtype)
        projected = [layer.cross_attention.sublayer.project(memory) for layer in decoder.layers]
        self.memory = [_Slots(k, v, used=k.size(2)) for k, v in projected]
        self.written = [
            _Slots(*(x.new_empty(*x.shape[:2], 1, x.size(3)) for x in (k, v)), used=0) for k, v in projected
        ]
        self.used = 0
        self.sees = memory.new_zeros(memory.size(1), 1, 1)  # additive: 0 where a hypothesis (B, n) sees a slot

    def step(self, tokens: Tensor, parents: Tensor | None = None, sentences: Tensor | None = None) -> Tensor:
        """Decode one more token of each hypothesis.

        Args:
            tokens: the newest token of each hypothesis, (B, n).
            parents: which hypothesis of the step before each goes on from, (B, n); None at the first step.
            sentences: which sentences of the step before go on, in rising order, (B,); None: all.

        Returns:
            The decoder's features of these tokens, (n, B, C).
        """
        if sentences is not None:
            self.sees, self.memory_mask = self.sees[sentences], self.memory_mask[sentences]
            for cache in self.memory:
                cache.k, cache.v = cache.k[sentences], cache.v[sentences]
        if parents is not None:
            self.sees = self.sees.gather(1, parents[:, :, None].expand(-1, -1, self.sees.size(2)))
        count = tokens.size(1)
        if sentences is not None or self.used + count > self.sees.size(2):
            self._collect(sentences, SPARE * count)
        alone = torch.full((count, count), -math.inf, device=tokens.device, dtype=self.sees.dtype).fill_diagonal_(0)
        self.sees[:, :, self.used : self.used + count] = alone
        self.used += count
        self.length += 1
        return self._decode(tokens)

    def _collect(self, sentences: Tensor | None, room: int) -> None:
        """Keep the slots that a hypothesis sees, of these sentences, and make room for so many more, or half again."""
        seen = self.sees[:, :, : self.used].eq(0).any(dim=1)
        used = int(seen.sum(dim=1).max())
        room = max(room, used // 2)
        slots = seen.byte().argsort(dim=1, descending=True, stable=True)[:, :used]
        sees = self.sees.gather(2, slots[:, None].expand(-1, self.sees.size(1), -1))
        self.sees = F.pad(sees, (0, room), value=-math.inf)
        if sentences is None:
            sentences = torch.arange(len(slots), device=slots.device)
        for cache in self.written:
            cache.select(sentences, F.pad(slots, (0, room)), used)
        self.used = used

    def _decode(self, tokens: Tensor) -> Tensor:
        decoder = self.decoder
        x = decoder.embed_at(tokens.t(), self.length)
        nowhere = torch.zeros_like(tokens, dtype=torch.bool)
        mask = self.sees[:, None, :, : self.used]
        for layer, written, memory in zip(decoder.layers, self.written, self.memory, strict=True):
            x = layer(x, nowhere, mask, None, self.memory_mask, written, memory)
        return x if decoder.final_norm is None else decoder.final_norm(x, nowhere)
