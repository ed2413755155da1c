"""Settings of the language models, and whether a position of such a model sees later tokens."""

from dataclasses import dataclass
from typing import Optional

from omegaconf import II

from normplugins.models.config import ModelConfig, probability, size
from normplugins.models.norm_settings import names_in
from normplugins.norms import sees_sentence
from normplugins.utils.errors import UserError
from normplugins.utils.settings import setting

SEES_THE_FUTURE = "unmasked: every position sees the tokens after it"
NORM_SEES_THE_FUTURE = "not causal: its norm lets every position see the tokens after it"


@dataclass
class LanguageModelConfig(ModelConfig):
    """Settings of both language models: one stack, by default post-norm as in the tensorized transformer's code."""

    layers: int = size(3, "layers")
    embed_dim: int = setting(256, "width", minimum=4)
    ffn_embed_dim: int = size(2100, "inner width of the feed-forward layers")
    dropout: float = probability(0.3, "dropout on embeddings, sublayer outputs, activations and the stack's output")
    normalize_before: bool = setting(False, "pre-norm: normalize each sublayer's input, and the stack's output")
    norm: str = setting(
        "ln",
        "norm of every sublayer; a norm for each layer is written [pn,pn,ln], and a norm for each site "
        "{attention:pn,ffn:ln,final:ln}",
    )
    tie_embeddings: bool = setting(
        True, "use the input embeddings as output weights; with an adaptive softmax, only if adaptive_input is on"
    )
    adaptive_softmax_cutoff: Optional[str] = setting(  # noqa: UP045
        None, "adaptive softmax: the ranks at which its clusters of rarer words begin, such as 20000,40000"
    )
    adaptive_input: bool = setting(False, "use the adaptive softmax's clusters for the input embeddings too")
    tokens_per_sample: int = II("task.tokens_per_sample")

    def check(self) -> None:
        """Raise UserError for settings that do not fit together."""
        if self.tokens_per_sample < 1:
            raise UserError(f"tokens_per_sample is {self.tokens_per_sample}, but must be at least 1")
        if self.embed_dim % 2:
            raise UserError(f"embed_dim={self.embed_dim} must be even")
        super().check()
        try:
            cutoffs = self.cutoffs
        except ValueError:
            cutoffs = [0]
        if cutoffs != sorted({*cutoffs}) or min(cutoffs, default=1) < 1:
            raise UserError(
                f"adaptive_softmax_cutoff={self.adaptive_softmax_cutoff} must be increasing ranks, such as 20000,40000"
            )
        if self.adaptive_input and not cutoffs:
            raise UserError("adaptive_input needs adaptive_softmax_cutoff, which defines the embeddings' clusters")

    @property
    def future_label(self) -> str:
        """How a position sees later tokens at evaluation; empty for a causal model."""
        return future_label(self.norm, getattr(self, "causal", True))

    def require_causal(self) -> None:
        """Raise UserError if a position sees later tokens, because fairseq's tools would not report it."""
        if self.future_label:
            raise UserError(
                f"this model is {self.future_label}. It cannot generate text, and its perplexity is not that of a "
                "language model; normplugins evaluate RUN measures the perplexity and adds this label"
            )

    @property
    def cutoffs(self) -> list[int]:
        """Ranks at which the clusters of the adaptive softmax begin; empty for a full softmax."""
        return [int(cutoff) for cutoff in (self.adaptive_softmax_cutoff or "").split(",") if cutoff.strip()]


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
        if self.placement == "deepnorm" or self.qk_norm:
            key = "qk_norm" if self.qk_norm else "placement"
            raise UserError(f"{key}={getattr(self, key)} needs softmax attention, which this model does not have")
        super().check()


def future_label(norm: str, masked: bool) -> str:
    """Return how a position of a language model sees later tokens at evaluation; empty if it does not."""
    if not masked:
        return SEES_THE_FUTURE
    return NORM_SEES_THE_FUTURE if any(map(sees_sentence, names_in(norm))) else ""
