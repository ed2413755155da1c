"""``tensor_transformer_lm``: the tensorized transformer (arXiv 1906.09777), as in its published code or causal.

In that code (``causal`` off) every position sees the tokens after it, so the measured number is not the perplexity of a
language model. Positions are counted back from the segment's end, as in Transformer-XL (arXiv 1901.02860), which the
published model follows in layout, initialization and dropout; u and w are shared by all layers.
"""

from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import register_model
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from normplugins.models.embeddings import positions_from_the_end
from normplugins.models.language_model import Features, LanguageModel, LanguageModelDecoder
from normplugins.models.language_model_config import TensorTransformerLMConfig
from normplugins.models.tensor_attention import TensorAttention
from normplugins.utils.errors import UserError

INIT_STD = 0.02


class TensorTransformerDecoder(LanguageModelDecoder):
    """Embeddings, layers of tensor attention and feed-forward, in pre-norm a final norm, and the output projection."""

    def __init__(self, cfg: TensorTransformerLMConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg, dictionary)
        dim, segment = cfg.embed_dim, cfg.tokens_per_sample
        self.register_buffer("positions", positions_from_the_end(segment, dim), persistent=False)
        self.positions: Tensor
        self.content_bias = nn.Parameter(torch.empty(cfg.head_dim).normal_(std=INIT_STD))
        self.position_bias = nn.Parameter(torch.empty(cfg.head_dim).normal_(std=INIT_STD))
        self._build(lambda: TensorAttention(dim, cfg.head_dim, segment, cfg.cores, cfg.causal))
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                weight = nn.init.normal_(module.weight.detach(), std=INIT_STD)
                if is_parametrized(module):  # ``weight`` is computed from g and v; its setter splits it again
                    module.weight = weight
        self.vocabulary.reset_embeddings(INIT_STD)

    def extract_features(self, prev_output_tokens: Tensor, **_unused: Any) -> Features:
        """Return the states (B, T, C) before the output projection, T <= ``tokens_per_sample``.

        ``prev_output_tokens`` (B, T) has at each position the token before the one to predict.

        Raises:
            UserError: the segment is longer than the model's.
        """
        if prev_output_tokens.size(1) > self.cfg.tokens_per_sample:
            raise UserError(
                f"a segment has {prev_output_tokens.size(1)} tokens, but this model was built for "
                f"{self.cfg.tokens_per_sample}: tensor attention has a weight for each pair of positions"
            )
        padding_mask = prev_output_tokens.eq(self.vocabulary.padding_idx)
        x, positions = self._dropout(self.vocabulary.embed(prev_output_tokens)), self._dropout(self.positions)
        args = ~padding_mask[..., None], positions, self.content_bias, self.position_bias
        return self._features(x, padding_mask, [args] * len(self.layers))

    def max_positions(self) -> int:
        """Longest segment, in tokens."""
        return self.cfg.tokens_per_sample


@register_model("tensor_transformer_lm", dataclass=TensorTransformerLMConfig)
class TensorTransformerLM(LanguageModel):
    """Tensorized transformer language model; see TensorTransformerLMConfig for its settings."""

    decoder_class = TensorTransformerDecoder
