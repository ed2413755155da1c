"""Word embeddings of a language model, and its full or adaptive softmax (arXiv 1609.04309)."""

import math
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.modules import AdaptiveInput, AdaptiveSoftmax
from torch import Tensor, nn
from torch.nn import functional as F

from normplugins.models.config import LanguageModelConfig
from normplugins.utils.errors import UserError


class _AdaptiveSoftmax(AdaptiveSoftmax):
    """fairseq's adaptive softmax, corrected so that every word is trained.

    fairseq's ``adaptive_loss`` ignores the padding index in each cluster. In the first cluster this is padding, but the
    later clusters number their words from 0, so that the index belongs to a word. Their indices are shifted past it.

    A cluster without a word in the batch gets one row of padding, and so does an empty batch: every parameter then has
    a gradient in every process, as DistributedDataParallel requires.
    """

    def __init__(self, padding_idx: int, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.moved = padding_idx + 1

    def forward(self, input: Tensor, target: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the logits and targets of each cluster for features (B, T, C) and words (B, T)."""
        padding = target.new_full((1,), self.moved - 1)
        if not target.numel():
            input, target = input.flatten(0, -2).sum(0, keepdim=True), padding
        logits, targets = super().forward(input, target)
        for index, tail in enumerate(self.tail, start=1):
            empty = targets[index] is None
            rows = tail(input.new_zeros(1, input.size(-1))) if empty else logits[index]
            logits[index] = F.pad(rows, (self.moved, 0), value=-math.inf)
            targets[index] = padding if empty else targets[index] + self.moved
        return logits, targets


class _AdaptiveInput(AdaptiveInput):
    """fairseq's adaptive input; the parameters of a cluster without a word in the batch get a zero gradient."""

    def forward(self, input: Tensor) -> Tensor:
        """Words (B, T) to embeddings (B, T, C)."""
        *starts, _ = self.cutoff
        present = torch.bucketize(input, input.new_tensor(starts), right=True).unique().tolist()
        absent = [band for index, band in enumerate(self.embeddings) if index not in present]
        return super().forward(input) + sum(band(input.new_empty(0)).sum() for band in absent)


def _zero_buffers(module: nn.Module) -> Any:
    """Set buffers to zero that fairseq leaves uninitialized: NaN in them would make a checkpoint invalid."""
    for name, buffer in module.named_buffers():
        if name.endswith("_float_tensor"):
            buffer.zero_()
    return module


class Vocabulary(nn.Module):
    """Embeddings scaled by sqrt(C) on the way in; logits on the way out, unless there is an adaptive softmax.

    fairseq puts ``<s>`` and ``<pad>`` before the words of every dictionary, but running text contains neither. With a
    full softmax they have no embedding and no probability, so that the vocabulary has the published size (PTB: 10,000).
    fairseq's adaptive modules, which have no biases, include both rows.

    Raises UserError when a cluster would begin beyond the dictionary's end.
    """

    def __init__(self, cfg: LanguageModelConfig, dictionary: Dictionary) -> None:
        super().__init__()
        self.scale, self.padding_idx = math.sqrt(cfg.embed_dim), dictionary.pad()
        self.unused = min(dictionary.eos(), dictionary.unk())
        self.size = size = len(dictionary)
        cutoffs = cfg.cutoffs
        if cutoffs and cutoffs[-1] >= size:
            raise UserError(
                f"adaptive_softmax_cutoff={cfg.adaptive_softmax_cutoff} needs more than {cutoffs[-1]:,} words, and the "
                f"dictionary has {size:,}"
            )
        self.adaptive_input: Any = None
        if cfg.adaptive_input:
            factor = cfg.adaptive_softmax_factor
            self.adaptive_input = _zero_buffers(
                _AdaptiveInput(size, self.padding_idx, cfg.embed_dim, factor, cfg.embed_dim, cutoffs)
            )
        else:
            self.embeddings = self._table(size - self.unused, cfg.embed_dim)
        if not cutoffs:
            self.output = self.embeddings if cfg.tie_embeddings else self._table(size - self.unused, cfg.embed_dim)
            self.output_bias = nn.Parameter(torch.zeros(size - self.unused))

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
        """Word indices (B, T) to embeddings (B, T, C) times sqrt(C); padding's is zero."""
        if self.adaptive_input is not None:
            return self.adaptive_input(tokens) * self.scale
        embedded = F.embedding((tokens - self.unused).clamp(min=0), self.embeddings) * self.scale
        return embedded.masked_fill(tokens.eq(self.padding_idx)[..., None], 0)

    def logits(self, x: Tensor) -> Tensor:
        """Features (B, T, C) to logits (B, T, V), minus infinity where a symbol is unused; full softmax only."""
        rows = F.pad(self.output, (0, 0, self.unused, 0))
        return F.linear(x, rows, F.pad(self.output_bias, (self.unused, 0), value=-math.inf))

    def build_adaptive_softmax(self, cfg: LanguageModelConfig) -> AdaptiveSoftmax | None:
        """Build the adaptive softmax, which the criterion ``adaptive_loss`` looks for in a decoder; None if full."""
        if not cfg.cutoffs:
            return None
        tied = cfg.adaptive_input and cfg.tie_embeddings
        softmax = _AdaptiveSoftmax(
            self.padding_idx,
            self.size,
            cfg.embed_dim,
            cfg.cutoffs,
            dropout=0.0,  # the stack's output comes with its dropout
            factor=cfg.adaptive_softmax_factor,
            adaptive_inputs=self.adaptive_input if tied else None,
            tie_proj=tied,
        )
        return _zero_buffers(softmax)
