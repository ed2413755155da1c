"""``tensor_transformer_lm``: the tensorized transformer (arXiv 1906.09777), as in its published code or causal.

In that code (``causal`` off) every position sees the tokens after it: what is measured then is not the perplexity of a
language model. Positions are counted back from the segment's end, as in Transformer-XL (arXiv 1901.02860), whose
layout, initialisation and dropout the published model has; u and w are shared by all layers.
"""

from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import FairseqLanguageModel, register_model
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from normplugins.models.arguments import add_boolean_arguments
from normplugins.models.config import TensorTransformerLMConfig, resolve_language_model
from normplugins.models.dropout import dropout
from normplugins.models.language_model import Features, LanguageModelDecoder, feed_forward, one_dictionary
from normplugins.models.layers import SelfAttentionLayer, apply_final_norm, run_layer
from normplugins.models.num_updates import EndsUpdates
from normplugins.models.positions import positions_from_the_end
from normplugins.models.tensor_attention import TensorAttention
from normplugins.norms.deferred_residual import DeferredResidual
from normplugins.utils.errors import UserError

INIT_STD = 0.02


class TensorTransformerDecoder(LanguageModelDecoder):
    """Embeddings, layers of tensor attention and feed-forward, pre-norm a final norm, output projection."""

    def __init__(self, cfg: TensorTransformerLMConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg, dictionary)
        self.cfg = cfg
        self.register_buffer(
            "positions", positions_from_the_end(cfg.tokens_per_sample, cfg.embed_dim), persistent=False
        )
        self.positions: Tensor
        self.content_bias = nn.Parameter(torch.empty(cfg.head_dim).normal_(std=INIT_STD))
        self.position_bias = nn.Parameter(torch.empty(cfg.head_dim).normal_(std=INIT_STD))
        self.layers = nn.ModuleList(self._layer(cfg) for _ in range(cfg.layers))
        self.final_norm = cfg.build_norm(final=True) if cfg.normalize_before else None
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                weight = nn.init.normal_(module.weight.detach(), std=INIT_STD)
                if is_parametrized(module):  # there ``weight`` was computed, and is taken apart again
                    module.weight = weight
        self.vocabulary.reset_embeddings(INIT_STD)

    @staticmethod
    def _layer(cfg: TensorTransformerLMConfig) -> SelfAttentionLayer:
        attention = TensorAttention(cfg.embed_dim, cfg.head_dim, cfg.tokens_per_sample, cfg.cores, cfg.causal)
        return SelfAttentionLayer(attention, feed_forward(cfg), cfg.build_norm, cfg)

    def extract_features(self, prev_output_tokens: Tensor, **_unused: Any) -> Features:
        """States before the output projection, (B, T, C).

        Args:
            prev_output_tokens: each the token before the one to predict, (B, T), T at most ``tokens_per_sample``.
            _unused: ``src_lengths``, ``encoder_out`` and the like, which fairseq passes.

        Raises:
            UserError: the segment is longer than the model's.
        """
        if prev_output_tokens.size(1) > self.cfg.tokens_per_sample:
            raise UserError(
                f"a segment of {prev_output_tokens.size(1)} tokens, but this model was built for "
                f"{self.cfg.tokens_per_sample}: tensor attention has a weight for each pair of positions"
            )
        padding_mask = prev_output_tokens.eq(self.vocabulary.padding_idx)
        x = self._dropout(self.vocabulary.embed(prev_output_tokens)).transpose(0, 1).contiguous()
        args = padding_mask, ~padding_mask[..., None], self._dropout(self.positions)
        hidden: Tensor | DeferredResidual = x
        for layer in self.layers:
            hidden = run_layer(
                layer,
                hidden,
                *args,
                self.content_bias,
                self.position_bias,
                recompute=self.cfg.checkpoint_activations,
            )
        x = apply_final_norm(self.final_norm, hidden, padding_mask)
        return self._dropout(x).transpose(0, 1), {"attn": [None]}

    def _dropout(self, x: Tensor) -> Tensor:
        return dropout(x, self.cfg.dropout, self.training)

    def max_positions(self) -> int:
        """Longest segment, in tokens."""
        return self.cfg.tokens_per_sample


@register_model("tensor_transformer_lm", dataclass=TensorTransformerLMConfig)
class TensorTransformerLM(EndsUpdates, FairseqLanguageModel):
    """Tensorized transformer language model; see TensorTransformerLMConfig for its settings."""

    @classmethod
    def add_args(cls, parser: Any) -> None:
        """Add one argument per setting; switches come as ``--name`` and ``--no-name``."""
        add_boolean_arguments(parser, TensorTransformerLMConfig)
        gen_parser_from_dataclass(parser, TensorTransformerLMConfig(), delete_default=True)

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "TensorTransformerLM":
        """Build from settings (OmegaConf node or Namespace) and a language-modelling task.

        Raises:
            UserError: settings that do not fit together or with the dictionary, or an unknown norm.
        """
        settings = resolve_language_model(TensorTransformerLMConfig, cfg)
        return cls(TensorTransformerDecoder(settings, one_dictionary(task)))
