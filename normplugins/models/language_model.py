"""``norm_transformer_lm``: a causal transformer language model; any norm, pre- or post-norm.

What a norm leaks. Attention is masked, so at evaluation no position sees a token after it: running statistics were
fixed before. The exception is a norm of whole sentences, ``instance``: a model with it is not causal, its perplexity is
labelled so, and it cannot generate text. In training ``bn``, ``pnv`` and, while it warms up, ``pn`` divide by a
statistic of all the batch's tokens, those to be predicted among them (``weight`` subtracts one): a position's output
then depends, weakly, on the tokens after it, and on other segments. Norms of one token, such as ``ln``, leak nothing.
Nor does the forward of ``pn`` after its warmup or of ``pn_alg2``: they divide by what was there before this batch.
``normplugins analyze causality`` measures it.
"""

from typing import Any

from fairseq.data import Dictionary
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import FairseqDecoder, FairseqIncrementalDecoder, FairseqLanguageModel, register_model
from torch import Tensor, nn

from normplugins.models.arguments import add_boolean_arguments
from normplugins.models.attention import Cache, SelfAttention, causal_attention_mask, padding_attention_mask
from normplugins.models.config import LanguageModelConfig, NormTransformerLMConfig, resolve_language_model
from normplugins.models.dropout import dropout
from normplugins.models.layers import FeedForward, SelfAttentionLayer, apply_final_norm, run_layer
from normplugins.models.num_updates import EndsUpdates
from normplugins.models.positions import SinusoidalPositions
from normplugins.models.vocabulary import Vocabulary
from normplugins.norms import sees_sentence
from normplugins.norms.deferred_residual import DeferredResidual
from normplugins.utils.errors import UserError


def one_dictionary(task: Any) -> Dictionary:
    """Return the task's dictionary; raises UserError when it predicts other words than it reads."""
    if len(task.source_dictionary) != len(task.target_dictionary):
        raise UserError("a model with tied embeddings needs one dictionary: leave task.output_dictionary_size at -1")
    return task.source_dictionary


Features = tuple[Tensor, dict[str, list[None]]]
"""Features (B, T, C), and what fairseq's beam search expects beside them."""


class LanguageModelDecoder(FairseqDecoder):
    """What the language models share: a full or an adaptive softmax over ``vocabulary``.

    fairseq's ``forward`` is ``extract_features`` and then ``output_layer``.
    """

    vocabulary: Vocabulary

    def __init__(self, cfg: LanguageModelConfig, dictionary: Dictionary) -> None:
        super().__init__(dictionary)
        self.vocabulary = Vocabulary(cfg, dictionary)
        self.adaptive_softmax = self.vocabulary.build_adaptive_softmax(cfg)

    def output_layer(self, features: Tensor, **_unused: Any) -> Tensor:
        """(B, T, C) to logits (B, T, V); an adaptive softmax takes the features as they are."""
        return features if self.adaptive_softmax else self.vocabulary.logits(features)


class NormTransformerLMDecoder(LanguageModelDecoder, FairseqIncrementalDecoder):
    """Embeddings and sinusoidal positions, layers of causal self-attention and feed-forward, pre-norm a final norm."""

    def __init__(self, cfg: NormTransformerLMConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg, dictionary)
        self.cfg = cfg
        self.positions = SinusoidalPositions(cfg.embed_dim, dictionary.pad(), cfg.max_positions)
        self.layers = nn.ModuleList(self._layer(cfg) for _ in range(cfg.layers))
        self.final_norm = cfg.build_norm(final=True) if cfg.normalize_before else None

    @staticmethod
    def _layer(cfg: NormTransformerLMConfig) -> SelfAttentionLayer:
        attention = SelfAttention(cfg.embed_dim, cfg.attention_heads, cfg.attention_dropout)
        return SelfAttentionLayer(attention, feed_forward(cfg), cfg.build_norm, cfg)

    forward = FairseqDecoder.forward  # FairseqIncrementalDecoder has one that is not implemented

    def extract_features(
        self, prev_output_tokens: Tensor, incremental_state: dict[str, Cache] | None = None, **_unused: Any
    ) -> Features:
        """States before the output projection, (B, T, C); T = 1 with an ``incremental_state``.

        Args:
            prev_output_tokens: each the token before the one to predict, (B, T): all, with an incremental_state too.
            incremental_state: attention caches by name, changed in place.
            _unused: ``src_lengths``, ``encoder_out`` and the like, which fairseq passes.

        Raises:
            UserError: asked for one position, of a norm that sees the whole segment.
        """
        step = incremental_state is not None
        if step and sees_sentence(self.cfg.norm):
            raise UserError(
                f"norm={self.cfg.norm}: with this norm a position sees the whole segment, so that this model cannot "
                "generate text word by word; it can only score text that is there"
            )
        padding_mask = prev_output_tokens.eq(self.vocabulary.padding_idx)
        x = self.vocabulary.embed(prev_output_tokens[:, -1:] if step else prev_output_tokens)
        positions = self.positions(prev_output_tokens)
        x = x + (positions[:, -1:] if step else positions)
        x = dropout(x, self.cfg.dropout, self.training).transpose(0, 1).contiguous()
        if step:
            mask, padding_mask = padding_attention_mask(padding_mask, x.dtype), padding_mask[:, -1:]
        else:
            mask = causal_attention_mask(padding_mask, x.dtype)
        hidden: Tensor | DeferredResidual = x
        for index, layer in enumerate(self.layers):
            cache = incremental_state.setdefault(str(index), Cache()) if incremental_state is not None else None
            hidden = run_layer(layer, hidden, padding_mask, mask, cache, recompute=self.cfg.checkpoint_activations)
        x = apply_final_norm(self.final_norm, hidden, padding_mask)
        return dropout(x, self.cfg.dropout, self.training).transpose(0, 1), {"attn": [None]}

    def reorder_incremental_state(self, incremental_state: dict[str, Cache], new_order: Tensor) -> None:
        """Follow the beam search: row i of every cache becomes row ``new_order[i]``."""
        for cache in incremental_state.values():
            cache.reorder(new_order)

    def max_positions(self) -> int:
        """Longest segment, in tokens."""
        return self.cfg.max_positions


def feed_forward(cfg: LanguageModelConfig) -> FeedForward:
    """Build a layer's feed-forward part; dropout after its activation too, as published."""
    return FeedForward(cfg.embed_dim, cfg.ffn_embed_dim, cfg.activation_fn, cfg.dropout, "xavier")


@register_model("norm_transformer_lm", dataclass=NormTransformerLMConfig)
class NormTransformerLM(EndsUpdates, FairseqLanguageModel):
    """Causal transformer language model built from this package's layers; its settings: NormTransformerLMConfig."""

    @classmethod
    def add_args(cls, parser: Any) -> None:
        """Add one argument per setting; switches come as ``--name`` and ``--no-name``."""
        add_boolean_arguments(parser, NormTransformerLMConfig)
        gen_parser_from_dataclass(parser, NormTransformerLMConfig(), delete_default=True)

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "NormTransformerLM":
        """Build from settings (OmegaConf node or Namespace) and a language-modelling task.

        Raises:
            UserError: settings that do not fit together or with the dictionary, or an unknown norm.
        """
        settings = resolve_language_model(NormTransformerLMConfig, cfg)
        return cls(NormTransformerLMDecoder(settings, one_dictionary(task)))
