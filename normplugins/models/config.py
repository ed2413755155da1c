"""Settings of ``norm_transformer``: sizes, dropouts, the two norms, and one ``norm_<field>`` per NormConfig field."""

import ast
import inspect
import itertools
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Any, Literal

from fairseq.dataclass import FairseqDataclass
from torch import nn

from normplugins.errors import UserError
from normplugins.norms import NormConfig, build_norm, resolve_norm

Side = Literal["encoder", "decoder"]
SIDES: tuple[Side, ...] = ("encoder", "decoder")

HEAD_GROUPED = ("pn", "pn_alg2")
"""Norms whose group scaling has, unless told otherwise, one group per attention head."""


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def _field_docs(cls: type) -> dict[str, str]:
    """Read the string that follows each field in a dataclass's source."""
    body = ast.parse(inspect.getsource(cls)).body[0].body  # type: ignore[attr-defined]
    return {
        node.target.id: " ".join(text.value.value.split())
        for node, text in itertools.pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def _norm_fields() -> list[tuple[str, Any, Any]]:
    """Make ``norm_<field>`` of each field of NormConfig but its name, with its type, default and documentation."""
    docs = _field_docs(NormConfig)
    return [
        (f"norm_{f.name}", f.type, _setting(f.default, f"norms: {docs[f.name]}"))
        for f in fields(NormConfig)
        if f.name != "name"
    ]


_NormFields: Any = make_dataclass("_NormFields", _norm_fields(), bases=(FairseqDataclass,))


@dataclass
class NormTransformerConfig(_NormFields):
    """A pre-norm transformer base with LayerNorm; ``norm_<field>`` go to the norms of both stacks."""

    encoder_layers: int = _setting(6, "encoder layers")
    encoder_embed_dim: int = _setting(512, "encoder width")
    encoder_ffn_embed_dim: int = _setting(2048, "inner width of the encoder's feed-forward layers")
    encoder_attention_heads: int = _setting(8, "encoder attention heads")
    decoder_layers: int = _setting(6, "decoder layers")
    decoder_embed_dim: int = _setting(512, "decoder width")
    decoder_ffn_embed_dim: int = _setting(2048, "inner width of the decoder's feed-forward layers")
    decoder_attention_heads: int = _setting(8, "decoder attention heads")
    dropout: float = _setting(0.1, "dropout on embeddings and on each sublayer's output")
    attention_dropout: float = _setting(0.0, "dropout on attention weights")
    activation_dropout: float = _setting(0.0, "dropout after the activation of feed-forward layers")
    activation_fn: str = _setting("relu", "activation of feed-forward layers: relu, gelu or swish")
    ffn_init: str = _setting(
        "xavier", "initialisation of feed-forward layers: xavier, as the released code, or linear, as fairseq >= 0.10"
    )
    normalize_before: bool = _setting(True, "pre-norm: normalise each sublayer's input, and each stack's output")
    encoder_norm: str = _setting("ln", "norm of the encoder")
    decoder_norm: str = _setting("ln", "norm of the decoder")
    final_norm_warmup_updates: int = _setting(1000, "norm_warmup_updates of the norm at the end of a pre-norm stack")
    share_all_embeddings: bool = _setting(
        False, "share encoder, decoder and output embeddings (needs a joined dictionary)"
    )
    share_decoder_input_output_embed: bool = _setting(False, "share decoder input and output embeddings")
    max_source_positions: int = _setting(1024, "longest source sentence, in tokens")
    max_target_positions: int = _setting(1024, "longest target sentence, in tokens")
    checkpoint_activations: bool = _setting(False, "recompute each layer in the backward pass to save memory")


def resolve_config(cfg: Any) -> NormTransformerConfig:
    """Read settings from an OmegaConf node or an argparse Namespace; what is absent gets its default.

    Raises:
        UserError: settings that do not fit together.
    """
    known = (f for f in fields(NormTransformerConfig) if not f.name.startswith("_"))
    resolved = NormTransformerConfig(**{f.name: getattr(cfg, f.name, f.default) for f in known})
    for side in ("encoder", "decoder"):
        dim, heads = getattr(resolved, f"{side}_embed_dim"), getattr(resolved, f"{side}_attention_heads")
        if heads < 1 or dim < 4 or dim % heads:
            raise UserError(
                f"{side}_embed_dim={dim} must be at least 4 and a multiple of {side}_attention_heads={heads}"
            )
    for name, known_values in (("activation_fn", ("relu", "gelu", "swish")), ("ffn_init", ("xavier", "linear"))):
        if getattr(resolved, name) not in known_values:
            raise UserError(f"unknown {name} {getattr(resolved, name)!r}: choose one of {', '.join(known_values)}")
    if resolved.share_all_embeddings:
        if resolved.encoder_embed_dim != resolved.decoder_embed_dim:
            raise UserError("share_all_embeddings needs encoder_embed_dim and decoder_embed_dim to be equal")
        resolved.share_decoder_input_output_embed = True
    return resolved


def _norm_defaults(cfg: NormTransformerConfig, side: Side) -> NormConfig:
    try:
        return resolve_norm(NormConfig(name=getattr(cfg, f"{side}_norm")))
    except ValueError as error:
        raise UserError(f"{side}_norm: {error}") from error


def side_norm_config(cfg: NormTransformerConfig, side: Side, final: bool = False) -> NormConfig:
    """NormConfig of one stack's norms; ``final``: of the one that ends a pre-norm stack, with its own warmup.

    The stacks share the ``norm_<field>`` settings; each norm reads those that it has. PN's channel groups are the
    attention heads of the stack, and a norm that never warms up has no final warmup.

    Raises:
        UserError: an unknown norm, a value out of range, or a switch that neither stack's norm has.
    """
    settings = {f.name: getattr(cfg, f"norm_{f.name}") for f in fields(NormConfig) if f.name != "name"}
    name = getattr(cfg, f"{side}_norm")
    if name in HEAD_GROUPED and settings["groups"] is None:
        settings["groups"] = getattr(cfg, f"{side}_attention_heads")
    defaults = [_norm_defaults(cfg, each) for each in SIDES]
    try:
        config = resolve_norm(NormConfig(name=name, **settings))
    except ValueError as error:
        raise UserError(f"{side}_norm: {error}") from error
    for switch, value in settings.items():
        if value is True and all(getattr(default, switch) is None for default in defaults):
            raise UserError(f"norm_{switch} is on, but neither {cfg.encoder_norm} nor {cfg.decoder_norm} has it")
    return replace(config, warmup_updates=cfg.final_norm_warmup_updates) if final and config.warmup_updates else config


def build_side_norm(cfg: NormTransformerConfig, side: Side, final: bool = False) -> nn.Module:
    """Build a norm of the stack's width; arguments and errors as in :func:`side_norm_config`."""
    try:
        return build_norm(side_norm_config(cfg, side, final), getattr(cfg, f"{side}_embed_dim"))
    except ValueError as error:
        raise UserError(f"{side}_norm: {error}") from error
