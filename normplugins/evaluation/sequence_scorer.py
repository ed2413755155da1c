"""A faster SequenceScorer: on a CPU it scores given translations without computing anything for padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fairseq import sequence_scorer
from fairseq.sequence_scorer import SequenceScorer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from normplugins.models.layers import is_compiled
from normplugins.models.transformer import NormTransformer
from normplugins.models.varlen import VarlenLayout

ROWS = 1024
"""Tokens whose logits are in memory at once."""


def use_everywhere() -> None:
    """Replace fairseq's SequenceScorer, which ``fairseq-generate --score-reference`` uses."""
    sequence_scorer.SequenceScorer = Scorer


class Scorer(SequenceScorer):
    """fairseq's SequenceScorer with a faster path for right-padded targets of one ``norm_transformer`` on a CPU.

    The decoder works on unpadded tokens, and only the probability of each position's word is stored. fairseq's code
    handles everything else. The arguments are SequenceScorer's.
    """

    @torch.no_grad()
    def generate(
        self, models: Sequence[nn.Module], sample: dict[str, Any], **options: Any
    ) -> list[list[dict[str, Any]]]:
        """Score the targets of a batch; return a list of one hypothesis per sentence, as SequenceScorer does."""
        model, target, inputs = models[0], sample["target"], sample["net_input"]
        if len(models) > 1 or not isinstance(model, NormTransformer) or not self._supports(model, inputs, target):
            return super().generate(models, sample, **options)
        model.eval()
        real = target.ne(self.pad)
        layout = VarlenLayout.from_padding_mask(~real)
        with parametrize.cached():  # weights that a norm computes are computed once
            encoded = model.encoder(inputs["src_tokens"], inputs.get("src_lengths"))
            features = model.decoder.extract_features(inputs["prev_output_tokens"], encoded, layout=layout)
            words = layout.unpad(target.t())
            scores = torch.cat(
                [
                    F.cross_entropy(model.decoder.output_layer(some).float(), which, reduction="none").neg_()
                    for some, which in zip(features.split(ROWS), words.split(ROWS), strict=True)
                ]
            )
        by_sentence = layout.pad(scores[:, None]).squeeze(2).t()
        lengths = real.sum(dim=1).tolist()
        return [
            [{"tokens": tokens, "score": of.mean(), "attention": None, "alignment": None, "positional_scores": of}]
            for tokens, of in zip(target[real].split(lengths), by_sentence[real].split(lengths), strict=True)
        ]

    def _supports(self, model: NormTransformer, inputs: dict[str, Tensor], target: Tensor) -> bool:
        padding = target.eq(self.pad)
        return (
            target.is_cpu
            and not is_compiled(model.decoder.layers)
            and not bool(padding[:, 0].any())
            and torch.equal(padding, inputs["prev_output_tokens"].eq(self.pad))
        )
