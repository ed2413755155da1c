"""Conversion between fairseq 0.12.2's transformer and ``norm_transformer`` with LayerNorm: settings and weights."""

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from fairseq.models.transformer import TransformerModel
from torch import Tensor

from normplugins.models.config import NormTransformerConfig, resolve_config
from normplugins.models.transformer import NormTransformer
from normplugins.utils.errors import UserError

State = dict[str, Tensor]

SAME_NAME = (
    *(f"{side}_{size}" for side in ("encoder", "decoder") for size in ("layers", "embed_dim", "ffn_embed_dim")),
    *("encoder_attention_heads", "decoder_attention_heads", "dropout", "attention_dropout", "activation_fn"),
    *("share_all_embeddings", "share_decoder_input_output_embed", "max_source_positions", "max_target_positions"),
)
UNSUPPORTED = (  # features that norm_transformer does not have: they must be off
    *("no_token_positional_embeddings", "encoder_learned_pos", "decoder_learned_pos", "layernorm_embedding"),
    *("no_scale_embedding", "no_cross_attention", "cross_self_attention", "layer_wise_attention"),
    *("encoder_spec_norm", "no_decoder_final_norm", "encoder_layers_to_keep", "decoder_layers_to_keep"),
    *("adaptive_softmax_cutoff", "adaptive_input", "base_layers"),
)
# Bookkeeping, and the weights that an encoder layer of fairseq 0.12 stores twice and trains once.
_UNREAD = re.compile(
    r".*\.(version|_float_tensor|num_batches_tracked)|encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)"
)
_OUTPUT = "decoder.output_projection.weight"


def shared_settings(stored: Any, source: Path | str, **known: Any) -> NormTransformerConfig:
    """Convert the settings of a fairseq transformer to norm_transformer's.

    Args:
        stored: a complete fairseq command line (Namespace or TransformerConfig).
        source: name of the checkpoint in error messages.
        known: further settings of norm_transformer.

    Raises:
        UserError: a setting is missing, or has no counterpart here.
    """
    for name in UNSUPPORTED:
        if value := getattr(stored, name, None):
            raise UserError(f"{source}: {name}={value!r} has no counterpart in norm_transformer")
    placements = {setting(stored, f"{side}_normalize_before", source) for side in ("encoder", "decoder")}
    if len(placements) != 1:
        raise UserError(f"{source}: encoder and decoder must both be pre-norm or both post-norm")
    return resolve_config(
        Namespace(
            **{name: setting(stored, name, source) for name in SAME_NAME},
            normalize_before=placements.pop(),
            # fairseq uses relu_dropout if activation_dropout is 0
            activation_dropout=getattr(stored, "activation_dropout", 0.0) or getattr(stored, "relu_dropout", 0.0),
            **known,
        )
    )


def setting(stored: Any, name: str, source: Path | str) -> Any:
    """Return a required setting.

    Raises:
        UserError: it is missing.
    """
    if not hasattr(stored, name):
        raise UserError(f"{source}: its settings lack {name!r}; is it a checkpoint of fairseq's transformer?")
    return getattr(stored, name)


def stock_names(name: str) -> list[str]:
    """Return the names in fairseq's state dict of our parameter ``name``; a packed projection has several."""
    for ours, stock in (
        ("self_attention.sublayer.", "self_attn."),
        ("cross_attention.sublayer.", "encoder_attn."),
        ("feed_forward.sublayer.", ""),
        ("self_attention.norm.", "self_attn_layer_norm."),
        ("cross_attention.norm.", "encoder_attn_layer_norm."),
        ("feed_forward.norm.", "final_layer_norm."),
        ("final_norm.", "layer_norm."),
        (".out.", ".out_proj."),
        ("num_updates", "iters"),  # only in the released PowerNorm code
    ):
        name = name.replace(ours, stock)
    for packed in ("qkv", "kv", "q"):
        if f".{packed}." in name:
            return [name.replace(f".{packed}.", f".{part}_proj.") for part in packed]
    return [name]


def pack(stored: State, model: NormTransformer, source: Path | str) -> State:
    """Rename, pack and reshape a fairseq state dict to the names, shapes and dtypes of ``model``.

    Raises:
        UserError: a parameter is missing, has another shape, or is left over.
    """
    left = {name for name in stored if not _UNREAD.fullmatch(name)}
    packed = {}
    for name, ours in model.state_dict().items():
        parts = stock_names(name)
        if name == _OUTPUT:
            left.discard(name)
            if model.decoder.output_projection.weight is model.decoder.embed_tokens.weight:
                parts = ["decoder.embed_tokens.weight"]
            elif name not in stored:
                parts = ["decoder.embed_out"]  # fairseq up to 0.9
        if missing := [part for part in parts if not isinstance(stored.get(part), Tensor)]:
            raise UserError(f"{source}: its model lacks {', '.join(missing)}")
        value = torch.cat([stored[part] for part in parts])
        if value.numel() != ours.numel() or (value.dim() == ours.dim() and value.shape != ours.shape):
            raise UserError(f"{source}: {parts[0]} has shape {tuple(value.shape)}, the settings ask for {ours.shape}")
        packed[name] = value.reshape(ours.shape).to(ours.dtype)
        left -= set(parts)
    if left:
        raise UserError(f"{source}: its model has {', '.join(sorted(left))}, which norm_transformer does not have")
    return packed


def from_stock(stock: TransformerModel, **known: Any) -> NormTransformer:
    """Build a norm_transformer with LayerNorm and copies of the weights of ``stock``.

    Args:
        stock: fairseq's transformer, as built by ``--arch transformer_iwslt_de_en`` and similar architectures.
        known: further settings of norm_transformer.

    Returns:
        The model, in training mode. It computes the same function except for dropout, whose masks differ.

    Raises:
        UserError: the model uses a feature that norm_transformer does not have.
    """
    task = Namespace(source_dictionary=stock.encoder.dictionary, target_dictionary=stock.decoder.dictionary)
    model = NormTransformer.build_model(shared_settings(stock.cfg, "the stock model", **known), task)
    model.load_state_dict(pack(stock.state_dict(), model, "the stock model"))
    return model


def load_into_stock(model: NormTransformer, stock: TransformerModel) -> None:
    """Copy the weights of a norm_transformer with LayerNorm into a stock transformer of the same size."""
    state = stock.state_dict()
    for name, value in model.state_dict().items():
        names = [name] if name == _OUTPUT else stock_names(name)
        state.update(zip(names, value.chunk(len(names)), strict=True))
    stock.load_state_dict(state)
    for layer in stock.encoder.layers:
        layer.can_use_fastpath = False  # post-norm, evaluation, left padding: PyTorch >= 2 refuses fairseq's call
