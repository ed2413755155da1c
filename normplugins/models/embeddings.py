"""Embeddings of words and positions, and a language model's full or adaptive softmax (arXiv 1609.04309)."""

import math
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.modules import AdaptiveInput, AdaptiveSoftmax, SinusoidalPositionalEmbedding
from fairseq.utils import make_positions
from torch import Tensor, nn
from torch.nn import functional as F

from normplugins.models.language_model_config import LanguageModelConfig
from normplugins.utils.errors import UserError

CLUSTER_WEIGHTS = r"decoder\.vocabulary\.adaptive_input\.embeddings\.\d+\.0\.weight"
"""The names of the embeddings of an adaptive input in a checkpoint, as a regular expression."""


def to_autocast_dtype(x: Tensor) -> Tensor:
    """Convert x to the dtype of ``torch.autocast``, which does not convert embeddings; outside autocast, return x."""
    device = x.device.type
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return x.to(torch.get_autocast_dtype(device)) if enabled else x


class SinusoidalPositions(nn.Module):
    """Sinusoidal position embeddings: dim/2 wavelengths from 2 pi to 10,000 x 2 pi, arranged as in tensor2tensor.

    The n-th real token of a sentence of at most ``max_positions`` tokens gets row ``padding_idx + n``, n = 1, 2, ...;
    padding gets the zero row. ``dim`` is at least 4.
    """

    def __init__(self, dim: int, padding_idx: int, max_positions: int) -> None:
        super().__init__()
        self.padding_idx, self.max_positions = padding_idx, max_positions
        table = SinusoidalPositionalEmbedding.get_embedding(padding_idx + 1 + max_positions, dim, padding_idx)
        self.register_buffer("table", table, persistent=False)
        self.table: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the position embeddings (B, T, dim) of token indices (B, T); raises as :meth:`numbers` does."""
        return F.embedding(self.numbers(tokens), self.table)

    def numbers(self, tokens: Tensor) -> Tensor:
        """Return the row number of each token's position, (B, T), for token indices (B, T).

        Raises:
            UserError: the sequences are longer than the model was built for.
        """
        if tokens.size(1) > self.max_positions:
            raise UserError(
                f"a sequence has {tokens.size(1)} tokens, but the model takes at most {self.max_positions}: "
                "shorten it, or train with larger max_positions (translation: max_source_ and max_target_positions)"
            )
        return make_positions(tokens, self.padding_idx)


def positions_from_the_end(length: int, dim: int) -> Tensor:
    """Return embeddings (L, C) of the distances L - 1, ..., 0 to the last token (Transformer-XL, arXiv 1901.02860).

    C is even; the wavelengths of sin and cos are 2 pi 10,000^(2n / C), n = 0 ... C/2 - 1.
    """
    frequencies = 10_000 ** -(torch.arange(0, dim, 2, dtype=torch.float) / dim)
    angles = torch.arange(length - 1, -1, -1, dtype=torch.float)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class _AdaptiveSoftmax(AdaptiveSoftmax):
    """fairseq's adaptive softmax, corrected so that every word is trained.

    fairseq's ``adaptive_loss`` ignores the padding index in each cluster. In the first cluster this index is padding,
    but later clusters number their words from 0, so there it belongs to a word. The word indices of later clusters are
    therefore shifted past it.

    A cluster without a word in the batch gets one row of padding, and so does an empty batch: every parameter then has
    a gradient in every process, as DistributedDataParallel requires.
    """

    def __init__(self, padding_idx: int, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.index_offset = padding_idx + 1

    def forward(self, input: Tensor, target: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the logits and targets of each cluster for features (B, T, C) and words (B, T)."""
        padding = target.new_full((1,), self.index_offset - 1)
        if not target.numel():
            input, target = input.flatten(0, -2).sum(0, keepdim=True), padding
        logits, targets = super().forward(input, target)
        for index, tail in enumerate(self.tail, start=1):
            empty = targets[index] is None
            rows = tail(input.new_zeros(1, input.size(-1))) if empty else logits[index]
            logits[index] = F.pad(rows, (self.index_offset, 0), value=-math.inf)
            targets[index] = padding if empty else targets[index] + self.index_offset
        return logits, targets


class _AdaptiveInput(AdaptiveInput):
    """fairseq's adaptive input, changed so that the host does not wait for the device.

    Every cluster embeds every word. The parameters of a cluster without a word in the batch thus have a zero gradient,
    as DistributedDataParallel requires.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the embeddings (B, T, C) of words (B, T)."""
        result: Any = 0
        for start, end, band in zip((0, *self.cutoff), self.cutoff, self.embeddings, strict=False):
            embedded = band((input - start).clamp(0, end - start - 1))
            outside = (input < start) | (input >= end)
            result = result + embedded.masked_fill(outside[..., None], 0)
        return result


class Vocabulary(nn.Module):
    """Input embeddings, scaled by sqrt(C), and the projection to logits unless there is an adaptive softmax.

    fairseq puts ``<s>`` and ``<pad>`` before the words of every dictionary, but running text contains neither. With a
    full softmax they have no embedding and no probability, so the vocabulary has the published size (PTB: 10,000).
    fairseq's adaptive modules, which have no biases, include both symbols.

    Raises UserError when a cluster would begin beyond the dictionary's end.
    """

    def __init__(self, cfg: LanguageModelConfig, dictionary: Dictionary) -> None:
        super().__init__()
        self.scale, self.padding_idx = math.sqrt(cfg.embed_dim), dictionary.pad()
        self.num_unused = min(dictionary.eos(), dictionary.unk())
        self.size = size = len(dictionary)
        cutoffs = cfg.cutoffs
        if cutoffs and cutoffs[-1] >= size:
            raise UserError(
                f"adaptive_softmax_cutoff={cfg.adaptive_softmax_cutoff} needs more than {cutoffs[-1]:,} words, and the "
                f"dictionary has {size:,}"
            )
        self.adaptive_input: Any = None
        if cfg.adaptive_input:
            dim = cfg.embed_dim
            self.adaptive_input = _AdaptiveInput(size, self.padding_idx, dim, 1.0, dim, cutoffs)
        else:
            self.embeddings = self._table(size - self.num_unused, cfg.embed_dim)
        if not cutoffs:
            self.output = self.embeddings if cfg.tie_embeddings else self._table(size - self.num_unused, cfg.embed_dim)
            self.output_bias = nn.Parameter(torch.zeros(size - self.num_unused))

    @staticmethod
    def _table(words: int, dim: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(words, dim).normal_(std=dim**-0.5))

    @torch.no_grad()
    def reset_embeddings(self, std: float) -> None:
        """Re-initialize the input embeddings from a normal distribution; padding stays zero."""
        if self.adaptive_input is None:
            self.embeddings.normal_(std=std)
            return
        for band, _ in self.adaptive_input.embeddings:
            band.weight.normal_(std=std)
        self.adaptive_input.embeddings[0][0].weight[self.padding_idx] = 0

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the embeddings (B, T, C) of word indices (B, T), times sqrt(C); zero at padding."""
        if self.adaptive_input is not None:
            return self.adaptive_input(tokens) * self.scale
        embedded = F.embedding((tokens - self.num_unused).clamp(min=0), self.embeddings) * self.scale
        return embedded.masked_fill(tokens.eq(self.padding_idx)[..., None], 0)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (B, T, V) of features (B, T, C), minus infinity for unused symbols; full softmax only."""
        rows = F.pad(self.output, (0, 0, self.num_unused, 0))
        return F.linear(x, rows, F.pad(self.output_bias, (self.num_unused, 0), value=-math.inf))

    def build_adaptive_softmax(self, cfg: LanguageModelConfig) -> AdaptiveSoftmax | None:
        """Build the adaptive softmax, which the criterion ``adaptive_loss`` looks for in a decoder; or None."""
        if not cfg.cutoffs:
            return None
        tied = cfg.adaptive_input and cfg.tie_embeddings
        return _AdaptiveSoftmax(
            self.padding_idx,
            self.size,
            cfg.embed_dim,
            cfg.cutoffs,
            dropout=0.0,  # the decoder has already applied dropout to its output
            factor=1.0,
            adaptive_inputs=self.adaptive_input if tied else None,
            tie_proj=tied,
        )
