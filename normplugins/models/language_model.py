"""``norm_transformer_lm``: a causal transformer language model; any norm, pre- or post-norm.

Attention is masked, so at evaluation no position sees a token after it, unless the norm sees whole sentences
(``instance``): ``normplugins evaluate`` labels the perplexity of such a model, and fairseq's tools refuse it. In
training, a norm that divides by statistics of the batch makes a position's output depend, weakly, on later tokens and
on other segments; ``normplugins analyze causality`` measures this effect (docs/causality.md).
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from fairseq.data import Dictionary
from fairseq.models import FairseqDecoder, FairseqIncrementalDecoder, FairseqLanguageModel, register_model
from torch import Tensor, nn

from normplugins.models.attention import Cache, SelfAttention, cache_of, causal_attention_mask, padding_attention_mask
from normplugins.models.base import NormModel
from normplugins.models.dropout import dropout
from normplugins.models.embeddings import SinusoidalPositions, Vocabulary, to_autocast_dtype
from normplugins.models.language_model_config import LanguageModelConfig, NormTransformerLMConfig
from normplugins.models.layers import FeedForward, Stack
from normplugins.utils.errors import UserError

logger = logging.getLogger(__name__)
Features = tuple[Tensor, dict[str, list[None]]]
"""Features (B, T, C), and the dict that fairseq's beam search expects beside them."""


class LanguageModelDecoder(Stack, FairseqDecoder):
    """Base class of the decoders: layers between embeddings and a full or an adaptive softmax over ``vocabulary``.

    fairseq's ``forward`` calls ``extract_features`` and then ``output_layer``.
    """

    def __init__(self, cfg: LanguageModelConfig, dictionary: Dictionary) -> None:
        super().__init__(dictionary)
        self.cfg = cfg
        self.vocabulary = Vocabulary(cfg, dictionary)
        self.adaptive_softmax = self.vocabulary.build_adaptive_softmax(cfg)
        for name, buffer in self.named_buffers():
            if name.endswith("_float_tensor"):  # fairseq leaves it uninitialized; NaN would make a checkpoint invalid
                buffer.zero_()

    def _build(self, attention: Callable[[], nn.Module]) -> None:
        cfg = self.cfg
        sizes = cfg.embed_dim, cfg.ffn_embed_dim, cfg.activation_fn
        # dropout after the activation too, as published
        self._build_layers("norm", attention, partial(FeedForward, *sizes, cfg.dropout))

    def _features(self, x: Tensor, padding_mask: Tensor, attention_args: Sequence[tuple[Any, ...]]) -> Features:
        """Apply the layers and dropout to x (B, T, C); ``attention_args`` holds each attention's further arguments."""
        x = self._run_layers(x.transpose(0, 1).contiguous(), padding_mask, [(args,) for args in attention_args])
        return self._dropout(x).transpose(0, 1), {"attn": [None]}

    def _dropout(self, x: Tensor) -> Tensor:
        return dropout(to_autocast_dtype(x), self.cfg.dropout, self.training)

    def output_layer(self, features: Tensor, **_unused: Any) -> Tensor:
        """Return the logits (B, T, V) of features (B, T, C), or the features themselves for an adaptive softmax."""
        return features if self.adaptive_softmax else self.vocabulary.logits(features)


class LanguageModel(NormModel, FairseqLanguageModel):
    """Base class of the language models."""

    REFUSED: ClassVar[dict[str, str]] = NormModel.REFUSED | {
        "add_bos_token": "the vocabulary of this model has no <s>, since running text has none",
        "max_target_positions": "a segment's length is tokens_per_sample, for which this model is built",
        "self_target": "this model predicts only the next token",
        "past_target": "this model predicts only the next token",
    }
    decoder_class: type[LanguageModelDecoder]

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "LanguageModel":
        """Build from settings (OmegaConf node or Namespace) and a language-modeling task.

        Raises:
            UserError: settings that do not fit together or with the dictionary, or an unknown norm.
        """
        settings = getattr(cls, "__dataclass").resolve(cfg)  # set by register_model
        if len(task.source_dictionary) != len(task.target_dictionary):
            raise UserError(
                "a model with tied embeddings needs one dictionary: leave task.output_dictionary_size at -1"
            )
        if settings.future_label:
            logger.warning(
                "this model is %s: its loss and perplexity are not those of a language model", settings.future_label
            )
        return cls(cls.decoder_class(settings, task.source_dictionary))

    def prepare_for_inference_(self, cfg: Any) -> None:
        """Prepare for generation or scoring by fairseq's tools.

        Raises:
            UserError: every position sees later tokens, or the model would ignore a setting.
        """
        self.decoder.cfg.require_causal()
        super().prepare_for_inference_(cfg)


class NormTransformerLMDecoder(LanguageModelDecoder, FairseqIncrementalDecoder):
    """Embeddings, sinusoidal positions, layers of causal self-attention and feed-forward; in pre-norm a final norm."""

    def __init__(self, cfg: NormTransformerLMConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg, dictionary)
        self.positions = SinusoidalPositions(cfg.embed_dim, dictionary.pad(), cfg.max_positions)
        sizes = cfg.embed_dim, cfg.attention_heads, cfg.attention_dropout
        self._build(lambda: SelfAttention(*sizes, partial(cfg.build_qk_norm, "norm")))

    forward = FairseqDecoder.forward  # FairseqIncrementalDecoder's raises NotImplementedError

    def extract_features(
        self, prev_output_tokens: Tensor, incremental_state: dict[str, Cache] | None = None, **_unused: Any
    ) -> Features:
        """Return the states (B, T, C) before the output projection; T = 1 with an ``incremental_state``.

        Args:
            prev_output_tokens: (B, T), at each position the token before the one to predict; all tokens so far, also
                with an ``incremental_state``.
            incremental_state: attention caches by name, changed in place.

        Raises:
            UserError: there is an ``incremental_state``, but the model's norm sees the whole segment.
        """
        step = incremental_state is not None
        tokens, positions = prev_output_tokens, self.positions(prev_output_tokens)
        padding_mask = tokens.eq(self.vocabulary.padding_idx)
        if step:
            self.cfg.require_causal()
            tokens, positions = tokens[:, -1:], positions[:, -1:]
        x = self._dropout(self.vocabulary.embed(tokens) + positions)
        mask = (padding_attention_mask if step else causal_attention_mask)(padding_mask, x.dtype)
        args = [(mask, cache_of(incremental_state, str(index))) for index in range(len(self.layers))]
        return self._features(x, padding_mask[:, -1:] if step else padding_mask, args)

    def max_positions(self) -> int:
        """Longest segment, in tokens."""
        return self.cfg.max_positions


@register_model("norm_transformer_lm", dataclass=NormTransformerLMConfig)
class NormTransformerLM(LanguageModel):
    """Causal transformer language model made of this package's layers; see NormTransformerLMConfig for its settings."""

    decoder_class = NormTransformerLMDecoder
