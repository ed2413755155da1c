"""Settings of the models: sizes, dropouts, which norm where."""

from dataclasses import dataclass, fields
from typing import Any, Literal, Optional, TypeVar

from omegaconf import II
from torch import nn

from normplugins.models.placement import (
    NormSettings,
    Stack,
    build_stack_norm,
    refuse_unread_settings,
    stack_norm_config,
)
from normplugins.norms import NormConfig, sees_sentence
from normplugins.utils.errors import UserError
from normplugins.utils.settings import invalid_value, setting

Side = Literal["encoder", "decoder"]
SIDES: tuple[Side, ...] = ("encoder", "decoder")
ACTIVATIONS = ("relu", "gelu", "swish")
_Settings = TypeVar("_Settings", bound=NormSettings)


@dataclass
class NormTransformerConfig(NormSettings):
    """A pre-norm transformer base with LayerNorm; ``norm_<field>`` go to the norms of both stacks."""

    encoder_layers: int = setting(6, "encoder layers")
    encoder_embed_dim: int = setting(512, "encoder width")
    encoder_ffn_embed_dim: int = setting(2048, "inner width of the encoder's feed-forward layers")
    encoder_attention_heads: int = setting(8, "encoder attention heads")
    decoder_layers: int = setting(6, "decoder layers")
    decoder_embed_dim: int = setting(512, "decoder width")
    decoder_ffn_embed_dim: int = setting(2048, "inner width of the decoder's feed-forward layers")
    decoder_attention_heads: int = setting(8, "decoder attention heads")
    dropout: float = setting(0.1, "dropout on embeddings and on each sublayer's output")
    attention_dropout: float = setting(0.0, "dropout on attention weights")
    activation_dropout: float = setting(0.0, "dropout after the activation of feed-forward layers")
    activation_fn: str = setting("relu", "activation of feed-forward layers", choices=ACTIVATIONS)
    ffn_init: str = setting(
        "xavier",
        "initialisation of feed-forward layers: xavier, as in the released code, or linear, as in fairseq >= 0.10",
        choices=("xavier", "linear"),
    )
    normalize_before: bool = setting(
        True, "pre-norm: normalise the input of each sublayer, and the output of each stack"
    )
    encoder_norm: str = setting("ln", "norm of the encoder")
    decoder_norm: str = setting("ln", "norm of the decoder")
    decoder_final_norm: Optional[str] = setting(  # noqa: UP045
        None, "norm at the end of a pre-norm decoder; by default decoder_norm"
    )
    final_norm_warmup_updates: int = setting(1000, "norm_warmup_updates of the norm at the end of a pre-norm stack")
    share_all_embeddings: bool = setting(
        False, "share encoder, decoder and output embeddings (needs a joined dictionary)"
    )
    share_decoder_input_output_embed: bool = setting(False, "share decoder input and output embeddings")
    max_source_positions: int = setting(1024, "longest source sentence, in tokens")
    max_target_positions: int = setting(1024, "longest target sentence, in tokens")
    checkpoint_activations: bool = setting(False, "recompute each layer in the backward pass to save memory")


def resolve_config(cfg: Any) -> NormTransformerConfig:
    """Read settings from an OmegaConf node or an argparse Namespace; absent settings get their defaults.

    Raises:
        UserError: settings that do not fit together.
    """
    resolved = _read(NormTransformerConfig, cfg)
    for side in SIDES:
        dim, heads = getattr(resolved, f"{side}_embed_dim"), getattr(resolved, f"{side}_attention_heads")
        if heads < 1 or dim < 4 or dim % heads:
            raise UserError(
                f"{side}_embed_dim={dim} must be at least 4 and a multiple of {side}_attention_heads={heads}"
            )
    if resolved.share_all_embeddings:
        if resolved.encoder_embed_dim != resolved.decoder_embed_dim:
            raise UserError("share_all_embeddings needs encoder_embed_dim and decoder_embed_dim to be equal")
        resolved.share_decoder_input_output_embed = True
    _check_final_norm(resolved, "decoder_final_norm")
    return resolved


def _read(settings: type[_Settings], cfg: Any) -> _Settings:
    """Build the settings from a node or Namespace. Raises UserError for a value out of range."""
    values = {f.name: getattr(cfg, f.name, f.default) for f in fields(settings) if not f.name.startswith("_")}
    for f in fields(settings):
        if "help" in f.metadata and values[f.name] is not None and (message := invalid_value(f, values[f.name])):
            raise UserError(message)
    return settings(**values)


def _check_final_norm(cfg: Any, key: str) -> None:
    name = getattr(cfg, key)
    if name and not cfg.normalize_before:
        raise UserError(f"{key}={name} with normalize_before off: only a pre-norm stack ends with a norm")
    if name and sees_sentence(name):
        raise UserError(f"{key}={name}: with this norm each position would see what is to be predicted after it")


def _stack(cfg: NormTransformerConfig, side: Side) -> Stack:
    return Stack(f"{side}_norm", getattr(cfg, f"{side}_embed_dim"), getattr(cfg, f"{side}_attention_heads"))


NORM_KEYS = (*(f"{side}_norm" for side in SIDES), "norm")
"""The settings that hold the norm of a stack in any model; a language model has only the last."""


def side_norm_config(cfg: NormTransformerConfig, side: Side, final: bool = False) -> NormConfig:
    """Return the NormConfig of one stack's norms; ``final`` and errors as in :func:`stack_norm_config`."""
    return stack_norm_config(cfg, _stack(cfg, side), final)


def build_side_norm(cfg: NormTransformerConfig, side: Side, final: bool = False) -> nn.Module:
    """Build a norm of the stack's width; ``final`` and errors as in :func:`stack_norm_config`.

    Raises:
        UserError: also for a decoder's norm that sees the whole sentence, which does not exist yet in decoding.
    """
    if side == "decoder" and sees_sentence(cfg.decoder_norm):
        raise UserError(
            f"decoder_norm={cfg.decoder_norm}: with this norm a position sees the whole sentence, and a decoder "
            f"generates it word by word. Use it in the encoder: encoder_norm={cfg.decoder_norm} decoder_norm=ln"
        )
    return build_stack_norm(cfg, _stack(cfg, side), final)


@dataclass
class LanguageModelConfig(NormSettings):
    """Settings of both language models: a stack with one norm, post-norm as in the tensorized transformer's code."""

    layers: int = setting(3, "layers", minimum=1)
    embed_dim: int = setting(256, "width", minimum=4)
    ffn_embed_dim: int = setting(2100, "inner width of the feed-forward layers", minimum=1)
    dropout: float = setting(0.3, "dropout on embeddings, sublayer outputs, activations and the stack's output")
    activation_fn: str = setting("relu", "activation of feed-forward layers", choices=ACTIVATIONS)
    normalize_before: bool = setting(False, "pre-norm: normalise each sublayer's input, and the stack's output")
    norm: str = setting("ln", "norm of every sublayer")
    final_norm: Optional[str] = setting(None, "norm at the end of a pre-norm stack; by default norm")  # noqa: UP045
    final_norm_warmup_updates: int = setting(1000, "norm_warmup_updates of the norm at the end of a pre-norm stack")
    tie_embeddings: bool = setting(True, "predict with the input embeddings (with an adaptive softmax: adaptive_input)")
    adaptive_softmax_cutoff: Optional[str] = setting(  # noqa: UP045
        None, "adaptive softmax: the ranks at which its clusters of rarer words begin, such as 20000,40000"
    )
    adaptive_softmax_factor: float = setting(1.0, "each cluster's embeddings are this many times narrower", minimum=1)
    adaptive_input: bool = setting(False, "embed the input in the adaptive softmax's clusters too")
    tokens_per_sample: int = II("task.tokens_per_sample")
    checkpoint_activations: bool = setting(False, "recompute each layer in the backward pass to save memory")

    @property
    def stack(self) -> Stack:
        """The stack of the norms; group scaling has one channel group per head."""
        return Stack("norm", self.embed_dim, getattr(self, "attention_heads", 1))

    @property
    def cutoffs(self) -> list[int]:
        """Ranks at which the clusters of the adaptive softmax begin; empty for a full softmax."""
        return [int(cutoff) for cutoff in (self.adaptive_softmax_cutoff or "").split(",") if cutoff.strip()]

    def build_norm(self, final: bool = False) -> nn.Module:
        """Build a norm of the stack; ``final`` and errors as in :func:`stack_norm_config`."""
        return build_stack_norm(self, self.stack, final)


@dataclass
class NormTransformerLMConfig(LanguageModelConfig):
    """A causal transformer language model."""

    attention_heads: int = setting(4, "attention heads", minimum=1)
    attention_dropout: float = setting(0.0, "dropout on attention weights")
    max_positions: int = setting(1024, "longest segment, in tokens", minimum=1)


@dataclass
class TensorTransformerLMConfig(LanguageModelConfig):
    """The tensorized transformer: single- or multi-core tensor attention over segments of ``tokens_per_sample``."""

    head_dim: int = setting(40, "channels of query, key, value and position key", minimum=1)
    cores: int = setting(1, "core tensors, whose mean is used", minimum=1)
    causal: bool = setting(
        True, "hide the tokens after each position; off, as in the published code, every position sees them"
    )


_LanguageModel = TypeVar("_LanguageModel", bound=LanguageModelConfig)


def resolve_language_model(settings: type[_LanguageModel], cfg: Any) -> _LanguageModel:
    """Read a language model's settings from an OmegaConf node or a Namespace; absent settings get their defaults.

    Raises:
        UserError: settings that do not fit together.
    """
    resolved = _read(settings, cfg)
    if resolved.tokens_per_sample < 1:
        raise UserError(f"tokens_per_sample is {resolved.tokens_per_sample}, and must be at least 1")
    heads = resolved.stack.heads
    if resolved.embed_dim < 4 or resolved.embed_dim % (2 * heads if heads > 1 else 2):
        raise UserError(
            f"embed_dim={resolved.embed_dim} must be at least 4, even and a multiple of attention_heads={heads}"
        )
    _check_final_norm(resolved, "final_norm")
    cutoffs = _check_cutoffs(resolved)
    if resolved.adaptive_input and not cutoffs:
        raise UserError("adaptive_input needs adaptive_softmax_cutoff: it embeds words in the clusters of the softmax")
    return resolved


def _check_cutoffs(cfg: LanguageModelConfig) -> list[int]:
    try:
        cutoffs = cfg.cutoffs
    except ValueError:
        cutoffs = [0]
    if cutoffs != sorted({*cutoffs}) or min(cutoffs, default=1) < 1 or cfg.adaptive_softmax_factor < 1:
        raise UserError(
            f"adaptive_softmax_cutoff={cfg.adaptive_softmax_cutoff} with adaptive_softmax_factor="
            f"{cfg.adaptive_softmax_factor}: it needs increasing ranks such as 20000,40000, and a factor of at least 1"
        )
    return cutoffs


def is_causal(norm: str, masked: bool) -> bool:
    """Whether no position of a language model sees a later token at evaluation, through attention or its norm."""
    return masked and not sees_sentence(norm)


def check_model(cfg: Any) -> None:
    """Refuse settings of the model ``cfg._name`` that cannot work; needs no corpus.

    Raises:
        UserError: an unknown key, settings that do not fit together, an unknown norm, or a norm setting that is not at
            its default and that no norm of the model reads.
    """
    known = {field.name for field in fields(LANGUAGE_MODELS.get(cfg._name, NormTransformerConfig))}
    if unknown := sorted(str(key) for key in cfg if key not in known):
        raise UserError(f"unknown key 'model.{unknown[0]}'. Known in {cfg._name}: {', '.join(sorted(known))}")
    if cfg._name in LANGUAGE_MODELS:
        language_model = resolve_language_model(LANGUAGE_MODELS[cfg._name], cfg)
        language_model.build_norm()
        refuse_unread_settings(language_model, NORM_KEYS, prefix="norm.")
        return
    translation = resolve_config(cfg)
    for side in SIDES:
        build_side_norm(translation, side)
    refuse_unread_settings(translation, NORM_KEYS, prefix="norm.")


LANGUAGE_MODELS: dict[str, type[LanguageModelConfig]] = {
    "norm_transformer_lm": NormTransformerLMConfig,
    "tensor_transformer_lm": TensorTransformerLMConfig,
}
