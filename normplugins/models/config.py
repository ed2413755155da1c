"""Settings of the models: sizes, dropouts, which norm where."""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Optional

from omegaconf import II
from torch import nn
from typing_extensions import Self

from normplugins.models.norm_settings import NORM_KEYS, NormSettings, final_key, norm_config, refuse_unread_settings
from normplugins.models.placement import PLACEMENTS, Placement, deepnorm
from normplugins.norms import build_norm, sees_sentence
from normplugins.utils.errors import UserError
from normplugins.utils.settings import invalid_value, setting

SEES_THE_FUTURE = "unmasked: every position sees the tokens after it"
NORM_SEES_THE_FUTURE = "not causal: by its norm every position sees the tokens after it"
ACTIVATIONS = ("relu", "gelu", "swish")
probability = partial(setting, minimum=0, below=1)
size = partial(setting, minimum=1)


@dataclass
class ModelConfig(NormSettings):
    """Base class of the models' settings; ``norm_<field>`` go to the norms of all stacks."""

    activation_fn: str = setting("relu", "activation of feed-forward layers", choices=ACTIVATIONS)
    final_norm_warmup_updates: int = setting(
        1000, "norm_warmup_updates of the norm at the end of a pre-norm stack", minimum=0
    )
    placement: Optional[str] = setting(  # noqa: UP045
        None,
        "where the norms stand around a sublayer: pre, post, sandwich (before it and after it, inside the residual), "
        "peri (and after the embeddings) or deepnorm; by default normalize_before decides between pre and post",
        choices=(None, *PLACEMENTS),
    )
    checkpoint_activations: bool = setting(False, "recompute each layer in the backward pass to save memory")

    @classmethod
    def resolve(cls, cfg: Any) -> Self:
        """Read settings from an OmegaConf node or an argparse Namespace; absent settings get their defaults.

        Raises:
            UserError: settings out of range, or that do not fit together.
        """
        declared = [f for f in fields(cls) if not f.name.startswith("_")]
        values: dict[str, Any] = {f.name: getattr(cfg, f.name, f.default) for f in declared}
        for f in declared:
            if values[f.name] is not None and (message := invalid_value(f, values[f.name])):
                raise UserError(message)
        if values["placement"]:
            values["normalize_before"] = PLACEMENTS[values["placement"]].before
        resolved = cls(**values)
        resolved.check()
        return resolved

    def check(self) -> None:
        """Raise UserError for settings that do not fit together."""
        for key in map(final_key, NORM_KEYS):
            name = getattr(self, key, None)
            if name and not self.normalize_before:
                raise UserError(f"{key}={name} with normalize_before off: only a pre-norm stack ends with a norm")
            if name and sees_sentence(name):
                raise UserError(
                    f"{key}={name}: with this norm each position would see what is to be predicted after it"
                )

    def placement_of(self, key: str) -> Placement:
        """Return the placement of the norms in the stack whose norm is the setting ``key``."""
        if self.placement != "deepnorm":
            return PLACEMENTS[self.placement or ("pre" if self.normalize_before else "post")]
        layers, other = self.stack_depths(key)
        return deepnorm(layers, other, encoder=key == "encoder_norm")

    def build_norm(self, key: str, final: bool = False) -> nn.Module:
        """Build a norm of the stack whose norm is the setting ``key``, or with ``final`` the norm at its end.

        The stacks share the ``norm_<setting>`` values, and each norm reads those that it has. The default number of
        channel groups is the stack's number of heads. The final norm has its own warmup if it warms up at all.

        Raises:
            UserError: an unknown norm, or a value out of range.
        """
        dim, heads = self.stack_size(key)
        if final and getattr(self, final_key(key), None):
            key = final_key(key)
        try:
            config = norm_config(self, getattr(self, key)).resolve(heads)
            if final and config.warmup_updates:
                config = config.replace(warmup_updates=self.final_norm_warmup_updates)
            return build_norm(config, dim)
        except ValueError as error:
            raise UserError(f"{key}: {error}") from error


@dataclass
class NormTransformerConfig(ModelConfig):
    """A pre-norm transformer base with LayerNorm."""

    encoder_layers: int = size(6, "encoder layers")
    encoder_embed_dim: int = size(512, "encoder width")
    encoder_ffn_embed_dim: int = size(2048, "inner width of the encoder's feed-forward layers")
    encoder_attention_heads: int = size(8, "encoder attention heads")
    decoder_layers: int = size(6, "decoder layers")
    decoder_embed_dim: int = size(512, "decoder width")
    decoder_ffn_embed_dim: int = size(2048, "inner width of the decoder's feed-forward layers")
    decoder_attention_heads: int = size(8, "decoder attention heads")
    dropout: float = probability(0.1, "dropout on embeddings and on each sublayer's output")
    attention_dropout: float = probability(0.0, "dropout on attention weights")
    activation_dropout: float = probability(0.0, "dropout after the activation of feed-forward layers")
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
    share_all_embeddings: bool = setting(
        False, "share encoder, decoder and output embeddings (needs a joined dictionary)"
    )
    share_decoder_input_output_embed: bool = setting(False, "share decoder input and output embeddings")
    max_source_positions: int = size(1024, "longest source sentence, in tokens")
    max_target_positions: int = size(1024, "longest target sentence, in tokens")

    def check(self) -> None:
        """Raise UserError for settings that do not fit together."""
        for key in ("encoder_norm", "decoder_norm"):
            side, (dim, heads) = key.partition("_")[0], self.stack_size(key)
            if heads < 1 or dim < 4 or dim % heads:
                raise UserError(
                    f"{side}_embed_dim={dim} must be at least 4 and a multiple of {side}_attention_heads={heads}"
                )
        if self.share_all_embeddings:
            if self.encoder_embed_dim != self.decoder_embed_dim:
                raise UserError("share_all_embeddings needs encoder_embed_dim and decoder_embed_dim to be equal")
            self.share_decoder_input_output_embed = True
        super().check()
        if sees_sentence(self.decoder_norm):
            raise UserError(
                f"decoder_norm={self.decoder_norm}: with this norm a position sees the whole sentence, and a decoder "
                f"generates it word by word. Use it in the encoder: encoder_norm={self.decoder_norm} decoder_norm=ln"
            )

    def stack_depths(self, key: str) -> tuple[int, int | None]:
        """Return the number of layers of a stack and of the other one."""
        depths = self.encoder_layers, self.decoder_layers
        return depths if key == "encoder_norm" else depths[::-1]

    def stack_size(self, key: str) -> tuple[int, int]:
        """Return the width and the number of attention heads of a stack."""
        if key == "encoder_norm":
            return self.encoder_embed_dim, self.encoder_attention_heads
        return self.decoder_embed_dim, self.decoder_attention_heads


@dataclass
class LanguageModelConfig(ModelConfig):
    """Settings of both language models: a stack with one norm, post-norm as in the tensorized transformer's code."""

    layers: int = size(3, "layers")
    embed_dim: int = setting(256, "width", minimum=4)
    ffn_embed_dim: int = size(2100, "inner width of the feed-forward layers")
    dropout: float = probability(0.3, "dropout on embeddings, sublayer outputs, activations and the stack's output")
    normalize_before: bool = setting(False, "pre-norm: normalise each sublayer's input, and the stack's output")
    norm: str = setting("ln", "norm of every sublayer")
    final_norm: Optional[str] = setting(None, "norm at the end of a pre-norm stack; by default norm")  # noqa: UP045
    tie_embeddings: bool = setting(True, "predict with the input embeddings (with an adaptive softmax: adaptive_input)")
    adaptive_softmax_cutoff: Optional[str] = setting(  # noqa: UP045
        None, "adaptive softmax: the ranks at which its clusters of rarer words begin, such as 20000,40000"
    )
    adaptive_softmax_factor: float = setting(1.0, "each cluster's embeddings are this many times narrower", minimum=1)
    adaptive_input: bool = setting(False, "embed the input in the adaptive softmax's clusters too")
    tokens_per_sample: int = II("task.tokens_per_sample")

    def check(self) -> None:
        """Raise UserError for settings that do not fit together."""
        if self.tokens_per_sample < 1:
            raise UserError(f"tokens_per_sample is {self.tokens_per_sample}, and must be at least 1")
        dim, heads = self.stack_size("norm")
        if dim < 4 or dim % (2 * heads if heads > 1 else 2):
            raise UserError(f"embed_dim={dim} must be at least 4, even and a multiple of attention_heads={heads}")
        super().check()
        try:
            cutoffs = self.cutoffs
        except ValueError:
            cutoffs = [0]
        if cutoffs != sorted({*cutoffs}) or min(cutoffs, default=1) < 1 or self.adaptive_softmax_factor < 1:
            raise UserError(
                f"adaptive_softmax_cutoff={self.adaptive_softmax_cutoff} with adaptive_softmax_factor="
                f"{self.adaptive_softmax_factor}: it needs increasing ranks such as 20000,40000, and a factor of at "
                "least 1"
            )
        if self.adaptive_input and not cutoffs:
            raise UserError(
                "adaptive_input needs adaptive_softmax_cutoff: it embeds words in the clusters of the softmax"
            )

    @property
    def future_label(self) -> str:
        """How a position sees later tokens at evaluation; empty for a causal model."""
        return future_label(self.norm, getattr(self, "causal", True))

    def require_causal(self) -> None:
        """Raise UserError if a position sees later tokens: fairseq's tools have no place to say so."""
        if self.future_label:
            raise UserError(
                f"this model is {self.future_label}, so that it cannot generate text, and its perplexity is not that "
                "of a language model (normplugins evaluate RUN measures it, and labels it so)"
            )

    @property
    def cutoffs(self) -> list[int]:
        """Ranks at which the clusters of the adaptive softmax begin; empty for a full softmax."""
        return [int(cutoff) for cutoff in (self.adaptive_softmax_cutoff or "").split(",") if cutoff.strip()]

    def stack_depths(self, key: str) -> tuple[int, int | None]:  # noqa: ARG002
        """Return the number of layers, and None, because there is no other stack."""
        return self.layers, None

    def stack_size(self, key: str) -> tuple[int, int]:  # noqa: ARG002
        """Return the width and the number of attention heads, 1 in a model with tensor attention."""
        return self.embed_dim, getattr(self, "attention_heads", 1)


@dataclass
class NormTransformerLMConfig(LanguageModelConfig):
    """A causal transformer language model."""

    attention_heads: int = size(4, "attention heads")
    attention_dropout: float = probability(0.0, "dropout on attention weights")
    max_positions: int = size(1024, "longest segment, in tokens")


@dataclass
class TensorTransformerLMConfig(LanguageModelConfig):
    """The tensorized transformer: single- or multi-core tensor attention over segments of ``tokens_per_sample``."""

    head_dim: int = size(40, "channels of query, key, value and position key")
    cores: int = size(1, "core tensors, whose mean is used")
    causal: bool = setting(
        True, "hide the tokens after each position; off, as in the published code, every position sees them"
    )

    def check(self) -> None:
        """Raise UserError for settings that do not fit together."""
        if self.placement == "deepnorm":
            raise UserError("placement=deepnorm prescribes initial weights of softmax attention; this model has none")
        super().check()


def future_label(norm: str, masked: bool) -> str:
    """Return how a position of a language model sees later tokens at evaluation, or nothing if it does not."""
    if not masked:
        return SEES_THE_FUTURE
    return NORM_SEES_THE_FUTURE if sees_sentence(norm) else ""


def is_causal(norm: str, masked: bool) -> bool:
    """Whether no position of a language model sees a later token at evaluation, through attention or its norm."""
    return not future_label(norm, masked)


def check_model(cfg: Any) -> None:
    """Refuse settings of the model ``cfg._name`` that cannot work; needs no corpus.

    Raises:
        UserError: an unknown key, settings that do not fit together, an unknown norm, or a norm setting that is not at
            its default and that no norm of the model reads.
    """
    settings = LANGUAGE_MODELS.get(cfg._name, NormTransformerConfig)
    known = sorted(f.name for f in fields(settings))
    if unknown := sorted(str(key) for key in cfg if key not in known):
        raise UserError(f"unknown key 'model.{unknown[0]}'. Known in {cfg._name}: {', '.join(known)}")
    for each in fields(settings):
        if each.metadata and (message := invalid_value(each, cfg.get(each.name, each.default), prefix="model.")):
            raise UserError(message)
    resolved = settings.resolve(cfg)
    for key in NORM_KEYS:
        if hasattr(resolved, key):
            resolved.build_norm(key)
    refuse_unread_settings(resolved, prefix="norm.")


LANGUAGE_MODELS: dict[str, type[ModelConfig]] = {
    "norm_transformer_lm": NormTransformerLMConfig,
    "tensor_transformer_lm": TensorTransformerLMConfig,
}
