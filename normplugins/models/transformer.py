"""``norm_transformer``: an encoder-decoder transformer whose encoder and decoder norms are settings.

Architectures for ``fairseq-train --arch``: transformer_{ln,bn,pnv,pn}_{iwslt_de_en,wmt_en_de,wmt_en_de_big}.
"""

import math
from argparse import Namespace
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from fairseq.data import Dictionary
from fairseq.models import (
    FairseqEncoder,
    FairseqEncoderDecoderModel,
    FairseqIncrementalDecoder,
    register_model,
    register_model_architecture,
)
from fairseq.models.transformer import Embedding
from torch import Tensor, nn
from torch.nn import functional as F

from normplugins.models.attention import (
    Cache,
    CrossAttention,
    SelfAttention,
    cache_of,
    causal_attention_mask,
    padding_attention_mask,
)
from normplugins.models.base import NormModel
from normplugins.models.config import NormTransformerConfig
from normplugins.models.dropout import dropout
from normplugins.models.embeddings import SinusoidalPositions, to_autocast_dtype
from normplugins.models.layers import FeedForward, Stack, is_compiled
from normplugins.models.linear import Linear
from normplugins.models.norm_settings import names_in
from normplugins.models.varlen import VarlenLayout, uses_varlen_attention
from normplugins.norms import has_statistics, sees_sentence
from normplugins.utils.errors import UserError

EncoderOut = dict[str, list[Tensor]]
Attend = Callable[[Tensor], Tensor]


class TranslationStack(Stack):
    """Base class of a translation model's encoder and decoder: a stack of layers with embeddings."""

    dictionary: Dictionary

    def _build(self, cfg: NormTransformerConfig, side: str, embed_tokens: nn.Embedding, max_positions: int) -> None:
        key = f"{side}_norm"
        dim, heads = cfg.stack_size(key)
        of_attention = heads, cfg.attention_dropout, partial(cfg.build_qk_norm, key)
        of_feed_forward = cfg.activation_fn, cfg.activation_dropout
        self.cfg, self.embed_tokens = cfg, embed_tokens
        self.positions = SinusoidalPositions(dim, self.dictionary.pad(), max_positions)
        self._build_layers(
            key,
            partial(SelfAttention, dim, *of_attention),
            partial(FeedForward, dim, getattr(cfg, f"{side}_ffn_embed_dim"), *of_feed_forward),
            partial(CrossAttention, dim, cfg.encoder_embed_dim, *of_attention) if side == "decoder" else None,
        )

    def _embed_sentences(self, tokens: Tensor, newest_only: bool = False, layout: VarlenLayout | None = None) -> Tensor:
        """Embed tokens (B, T) as (T, B, C); only the last token of each sentence if ``newest_only``.

        With ``layout``, embed only its positions, unpadded: (N, C).
        """
        numbers = self.positions.numbers(tokens)
        if newest_only:
            tokens, numbers = tokens[:, -1:], numbers[:, -1:]
        tokens, numbers = tokens.t(), numbers.t()
        if layout is not None:
            tokens, numbers = layout.unpad(tokens), layout.unpad(numbers)
        x = self._embed(tokens, F.embedding(numbers, self.positions.table))
        return dropout(to_autocast_dtype(x), self.cfg.dropout, self.training)

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the scaled embeddings (..., C) of tokens (...) plus their position embeddings (..., C)."""
        return self.embed_tokens(tokens) * math.sqrt(self.embed_tokens.embedding_dim) + positions

    def max_positions(self) -> int:
        """Longest sentence, in tokens."""
        return self.positions.max_positions


class NormTransformerEncoder(TranslationStack, FairseqEncoder):
    """Token and position embeddings, encoder layers and, in pre-norm, a final norm."""

    def __init__(self, cfg: NormTransformerConfig, dictionary: Dictionary, embed_tokens: nn.Embedding) -> None:
        super().__init__(dictionary)
        self._build(cfg, "encoder", embed_tokens, cfg.max_source_positions)

    def forward(self, src_tokens: Tensor, src_lengths: Tensor | None = None, **_unused: Any) -> EncoderOut:  # noqa: ARG002
        """Encode source sentences (B, S), padded on either side.

        Returns:
            ``encoder_out`` [(S, B, C)] and ``encoder_padding_mask`` [(B, S), True = padding].
        """
        padding_mask = src_tokens.eq(self.positions.padding_idx)
        x = self._embed_sentences(src_tokens)
        attention_mask = padding_attention_mask(padding_mask, x.dtype)
        x = self._run_layers(x, padding_mask, [((attention_mask,),)] * len(self.layers))
        return {"encoder_out": [x], "encoder_padding_mask": [padding_mask]}

    def reorder_encoder_out(self, encoder_out: EncoderOut, new_order: Tensor) -> EncoderOut:
        """Select sentences by ``new_order`` (B',), indices into the batch."""
        (x,), (padding_mask,) = encoder_out["encoder_out"], encoder_out["encoder_padding_mask"]
        return {
            "encoder_out": [x.index_select(1, new_order)],
            "encoder_padding_mask": [padding_mask.index_select(0, new_order)],
        }


class NormTransformerDecoder(TranslationStack, FairseqIncrementalDecoder):
    """Embeddings, decoder layers, in pre-norm a final norm, and the output projection."""

    def __init__(self, cfg: NormTransformerConfig, dictionary: Dictionary, embed_tokens: nn.Embedding) -> None:
        super().__init__(dictionary)
        self._build(cfg, "decoder", embed_tokens, cfg.max_target_positions)
        self.output_projection = Linear(cfg.decoder_embed_dim, len(dictionary), bias=False)
        if cfg.share_decoder_input_output_embed:
            self.output_projection.weight = embed_tokens.weight
        else:
            nn.init.normal_(self.output_projection.weight, std=cfg.decoder_embed_dim**-0.5)

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncoderOut,
        incremental_state: dict[str, Cache] | None = None,
        features_only: bool = False,
        **_unused: Any,
    ) -> tuple[Tensor, dict[str, list[None]]]:
        """Return logits (B, T, V), or features (B, T, C) if ``features_only``; T = 1 with an ``incremental_state``.

        Args:
            prev_output_tokens: (B, T), the target shifted right; all tokens so far, also with an ``incremental_state``.
            encoder_out: the encoder's result.
            incremental_state: attention caches by name, changed in place; None: teacher forcing.
        """
        x = self.extract_features(prev_output_tokens, encoder_out, incremental_state)
        return (x if features_only else self.output_layer(x)), {"attn": [None]}

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncoderOut,
        incremental_state: dict[str, Cache] | None = None,
    ) -> Tensor:
        """Return the decoder states (B, T, C) before the output projection; arguments as in ``forward``."""
        step = incremental_state is not None
        padding_mask = prev_output_tokens.eq(self.positions.padding_idx)
        layout = self._varlen_layout(padding_mask) if self.training and not step else None
        x = self._embed_sentences(prev_output_tokens, newest_only=step, layout=layout)
        attention_mask = (padding_attention_mask if step else causal_attention_mask)(padding_mask, x.dtype)
        if step:
            padding_mask = padding_mask[:, -1:]
        memory = encoder_out["encoder_out"][0]
        memory_mask = padding_attention_mask(encoder_out["encoder_padding_mask"][0], x.dtype)
        layer_args = []
        for index in range(len(self.layers)):
            own, cross = (cache_of(incremental_state, f"{index}.{kind}") for kind in ("self", "cross"))
            layer_args.append(((attention_mask, own, layout), (memory, memory_mask, cross, layout)))
        x = self._run_layers(x, padding_mask if layout is None else None, layer_args)
        return (x if layout is None else layout.pad(x)).transpose(0, 1)

    def _varlen_layout(self, padding_mask: Tensor) -> VarlenLayout | None:
        """Return the layout of the real tokens if the layers can skip padding: on a CPU, if all norms are per token."""
        if any(has_statistics(name) or sees_sentence(name) for name in names_in(self.cfg.decoder_norm)):
            return None
        weight = to_autocast_dtype(self.embed_tokens.weight[:0])
        if is_compiled(self.layers) or not uses_varlen_attention(weight, self.cfg.attention_dropout, 0):
            return None
        layout = VarlenLayout.from_padding_mask(padding_mask)
        return None if layout.tokens is None else layout

    def output_layer(self, features: Tensor) -> Tensor:
        """Return the logits (B, T, V) of features (B, T, C)."""
        return self.output_projection(features)

    def step(self, tokens: Tensor, position: int, attentions: Iterable[tuple[Attend, Attend]]) -> Tensor:
        """Return the logits (N, V) of the tokens after tokens (N,), at evaluation.

        Args:
            tokens: the last token of each of N hypotheses.
            position: their position in the target, from 1.
            attentions: for each layer a function for its self-attention and one for its attention to the source, which
                map x (N, C) to a new tensor (N, C).
        """
        x = self._embed(tokens, self.positions.table[self.positions.padding_idx + position])
        if self.embedding_norm is not None:
            x = self.embedding_norm(x, None)
        layers: Any = self.layers
        for layer, (own, source) in zip(layers, attentions, strict=True):
            x = layer.self_attention.evaluate(x, own)
            x = layer.cross_attention.evaluate(x, source)
            x = layer.feed_forward.evaluate(x, layer.feed_forward.sublayer)
        return self.output_layer(x if self.final_norm is None else self.final_norm(x, None))


@register_model("norm_transformer", dataclass=NormTransformerConfig)
class NormTransformer(NormModel, FairseqEncoderDecoderModel):
    """Encoder-decoder transformer built from this package's layers; see NormTransformerConfig for its settings."""

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "NormTransformer":
        """Build from settings (OmegaConf node or Namespace) and a task's two dictionaries.

        Raises:
            UserError: settings that do not fit together or with the dictionaries, or an unknown norm.
        """
        cfg = NormTransformerConfig.resolve(cfg)
        source, target = task.source_dictionary, task.target_dictionary
        if cfg.share_all_embeddings and source != target:
            raise UserError(
                "share_all_embeddings needs one dictionary for both languages: "
                "prepare the corpus with a joined dictionary, or turn share_all_embeddings off"
            )
        encoder_embedding = decoder_embedding = Embedding(len(source), cfg.encoder_embed_dim, source.pad())
        if not cfg.share_all_embeddings:
            decoder_embedding = Embedding(len(target), cfg.decoder_embed_dim, target.pad())
        encoder = NormTransformerEncoder(cfg, source, encoder_embedding)
        return cls(encoder, NormTransformerDecoder(cfg, target, decoder_embedding))


SIZES = {  # width, feed-forward width, heads, dropout
    "iwslt_de_en": (512, 1024, 4, 0.3),
    "wmt_en_de": (512, 2048, 8, 0.1),
    "wmt_en_de_big": (1024, 4096, 16, 0.3),
}


def _register_architecture(norm: str, size: str) -> None:
    """Register an architecture, which sets defaults: sizes, ``norm`` in the encoder, and LN in the decoder."""
    dim, inner, heads, dropout = SIZES[size]
    settings = {"dropout": dropout, "encoder_norm": norm}
    for side in ("encoder", "decoder"):
        settings |= {f"{side}_embed_dim": dim, f"{side}_ffn_embed_dim": inner, f"{side}_attention_heads": heads}

    @register_model_architecture("norm_transformer", f"transformer_{norm}_{size}")
    def architecture(args: Namespace) -> None:
        for name, value in settings.items():
            setattr(args, name, getattr(args, name, value))


for _norm in ("ln", "bn", "pnv", "pn"):
    for _size in SIZES:
        _register_architecture(_norm, _size)
