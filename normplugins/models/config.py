"""Settings of the models: sizes, dropout probabilities, and which norm stands where."""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Optional

from torch import nn
from typing_extensions import Self

from normplugins.models.dropout import ACTIVATIONS
from normplugins.models.norm_settings import (
    NORM_KEYS,
    NormSettings,
    check_sites,
    names_in,
    naming,
    norm_at,
    norm_config,
)
from normplugins.models.placement import PLACEMENTS, Placement, deepnorm
from normplugins.norms import build_norm, has_final_warmup, has_statistics, sees_sentence
from normplugins.utils.errors import UserError
from normplugins.utils.settings import invalid_value, setting

probability = partial(setting, minimum=0, below=1)
size = partial(setting, minimum=1)


@dataclass
class ModelConfig(NormSettings):
    """Base class of the models' settings; the norms of all stacks share the ``norm_<setting>`` values."""

    activation_fn: str = setting("relu", "activation of feed-forward layers", choices=tuple(ACTIVATIONS))
    final_norm_warmup_updates: int = setting(
        1000, "norm_warmup_updates of PN at the end of a pre-norm stack", minimum=0
    )
    placement: Optional[str] = setting(  # noqa: UP045
        None,
        "where the norms are placed in a sublayer: pre, post, sandwich (before it and after it, inside the residual), "
        "peri (sandwich, and a norm of the embeddings) or deepnorm; by default normalize_before chooses pre or post",
        choices=(None, *PLACEMENTS),
    )
    qk_norm: Optional[str] = setting(  # noqa: UP045
        None, "norm of the queries and keys of each attention head, such as rms; none by default"
    )
    checkpoint_activations: bool = setting(False, "recompute each layer in the backward pass to save memory")

    @classmethod
    def resolve(cls, cfg: Any, prefix: str = "") -> Self:
        """Read settings from an OmegaConf node or an argparse Namespace; absent settings get their defaults.

        Error messages put ``prefix`` before the name of a setting that is out of range.

        Raises:
            UserError: settings that are out of range, or do not fit together.
        """
        declared = [f for f in fields(cls) if not f.name.startswith("_")]
        values: dict[str, Any] = {f.name: getattr(cfg, f.name, f.default) for f in declared}
        for f in declared:
            if message := invalid_value(f, values[f.name], prefix):
                raise UserError(message)
        if values["placement"]:
            values["normalize_before"] = PLACEMENTS[values["placement"]].pre_norm
        resolved = cls(**values)
        resolved.check()
        return resolved

    def check(self) -> None:
        """Raise UserError for settings that do not fit together."""
        if self.qk_norm and (has_statistics(self.qk_norm) or sees_sentence(self.qk_norm)):
            raise UserError(
                f"qk_norm={self.qk_norm}: attention has no padding mask for this norm; use a norm of single tokens, "
                "such as rms"
            )
        for key in NORM_KEYS:
            if not hasattr(self, key):
                continue
            check_sites(key, getattr(self, key), self.normalize_before)
            stack, (dim, heads) = key.removesuffix("norm"), self.stack_size(key)
            if dim % heads:
                raise UserError(f"{stack}embed_dim={dim} must be a multiple of {stack}attention_heads={heads}")

    def placement_of(self, key: str) -> Placement:
        """Return the placement of the norms in the stack whose norm setting is ``key``."""
        if self.placement != "deepnorm":
            return PLACEMENTS[self.placement or ("pre" if self.normalize_before else "post")]
        other = {"encoder_norm": "decoder_norm", "decoder_norm": "encoder_norm"}.get(key)
        depth_of_other = self.stack_depth(other) if other else None
        return deepnorm(self.stack_depth(key), depth_of_other, encoder=key == "encoder_norm")

    def stack_depth(self, key: str) -> int:
        """Return the number of layers of the stack whose norm setting is ``key``."""
        return getattr(self, f"{key.removesuffix('norm')}layers")

    def stack_size(self, key: str) -> tuple[int, int]:
        """Return the width and the number of attention heads of a stack; tensor attention has one head."""
        stack = key.removesuffix("norm")
        return getattr(self, f"{stack}embed_dim"), getattr(self, f"{stack}attention_heads", 1)

    def build_norm(self, key: str, site: str = "attention", layer: int = 0) -> nn.Module:
        """Build the norm at a site of a layer (counted from 0) in the stack whose norm setting is ``key``.

        The site is one of ``SITES``; "final" is the end of a pre-norm stack. The stacks share the ``norm_<setting>``
        values, and each norm reads those that it has. The default number of channel groups is the stack's number of
        heads. If the final norm is PN and has a warmup, the warmup is ``final_norm_warmup_updates``.

        Raises:
            UserError: an unknown norm, or a value out of range.
        """
        (dim, heads), layers, final = self.stack_size(key), self.stack_depth(key), site == "final"
        with naming(key):
            config = norm_config(self, norm_at(getattr(self, key), site, layer, layers)).resolve(heads)
            if final and config.warmup_updates and has_final_warmup(config.name):
                config = config.replace(warmup_updates=self.final_norm_warmup_updates)
            return build_norm(config, dim)

    def build_qk_norm(self, key: str) -> nn.Module | None:
        """Build a norm for the queries or keys of one head in a stack; None without qk_norm. Raises as build_norm."""
        if not self.qk_norm:
            return None
        dim, heads = self.stack_size(key)
        with naming("qk_norm"):
            return build_norm(norm_config(self, self.qk_norm), dim // heads)


@dataclass
class NormTransformerConfig(ModelConfig):
    """A pre-norm transformer base with LayerNorm."""

    encoder_layers: int = size(6, "encoder layers")
    encoder_embed_dim: int = setting(512, "encoder width", minimum=4)
    encoder_ffn_embed_dim: int = size(2048, "inner width of the encoder's feed-forward layers")
    encoder_attention_heads: int = size(8, "encoder attention heads")
    decoder_layers: int = size(6, "decoder layers")
    decoder_embed_dim: int = setting(512, "decoder width", minimum=4)
    decoder_ffn_embed_dim: int = size(2048, "inner width of the decoder's feed-forward layers")
    decoder_attention_heads: int = size(8, "decoder attention heads")
    dropout: float = probability(0.1, "dropout on embeddings and on each sublayer's output")
    attention_dropout: float = probability(0.0, "dropout on attention weights")
    activation_dropout: float = probability(0.0, "dropout after the activation of feed-forward layers")
    normalize_before: bool = setting(
        True, "pre-norm: normalize the input of each sublayer, and the output of each stack"
    )
    encoder_norm: str = setting(
        "ln",
        "norm of the encoder; a norm for each layer is written [pn,pn,ln], and a norm for each site "
        "{attention:pn,ffn:ln,final:ln}",
    )
    decoder_norm: str = setting("ln", "norm of the decoder, written in the same way")
    share_all_embeddings: bool = setting(
        False, "share encoder, decoder and output embeddings (needs a joined dictionary)"
    )
    share_decoder_input_output_embed: bool = setting(False, "share decoder input and output embeddings")
    max_source_positions: int = size(1024, "longest source sentence, in tokens")
    max_target_positions: int = size(1024, "longest target sentence, in tokens")

    def check(self) -> None:
        """Raise UserError for settings that do not fit together."""
        super().check()
        if self.share_all_embeddings:
            if self.encoder_embed_dim != self.decoder_embed_dim:
                raise UserError("share_all_embeddings needs encoder_embed_dim and decoder_embed_dim to be equal")
            self.share_decoder_input_output_embed = True
        if any(map(sees_sentence, names_in(self.decoder_norm))):
            raise UserError(
                f"decoder_norm={self.decoder_norm}: with this norm a position sees the whole sentence, but a decoder "
                "generates the sentence word by word. Use the norm in the encoder: "
                f"encoder_norm={self.decoder_norm} decoder_norm=ln"
            )
