"""Imports checkpoints of the released PowerNorm code (a fork of fairseq 0.8) and of stock fairseq's transformer."""

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from torch import Tensor

from normplugins.compat import why_refused
from normplugins.models.config import NormTransformerConfig
from normplugins.models.transformer import NormTransformer
from normplugins.utils.errors import UserError
from normplugins.utils.files import whole_file

State = dict[str, Tensor]

NORM_NAMES = {"power": "pn", "layer": "ln", "batch": "bn_released"}
"""A value of the released code's ``--encoder-norm-self`` and similar options -> our name of the norm."""
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
STOCK_NAMES = (  # part of our parameter names -> the same part of fairseq's
    ("self_attention.sublayer.", "self_attn."),
    ("cross_attention.sublayer.", "encoder_attn."),
    ("feed_forward.sublayer.", ""),
    ("self_attention.norm.", "self_attn_layer_norm."),
    ("cross_attention.norm.", "encoder_attn_layer_norm."),
    ("feed_forward.norm.", "final_layer_norm."),
    ("final_norm.", "layer_norm."),
    (".out.", ".out_proj."),
    ("num_updates", "iters"),  # only in the released PowerNorm code
)
# Bookkeeping, and the second copies of weights that an encoder layer of fairseq 0.12 stores but does not train.
_UNREAD = re.compile(
    r".*\.(version|_float_tensor|num_batches_tracked)|encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)"
)
_METERS: list[Any] = [  # a checkpoint's training meters are read as empty objects
    (type(name, (), {}), f"fairseq.meters.{name}") for name in ("AverageMeter", "TimeMeter", "StopwatchMeter")
]


def import_checkpoint(source: Path, destination: Path) -> None:
    """Write ``source`` as a norm_transformer checkpoint that stock fairseq tools load.

    The new checkpoint refers to the dictionaries beside ``source`` if they are there, and otherwise to the data folder
    that ``source`` names.

    Args:
        source: checkpoint of the released code or of stock fairseq's transformer, detected from its settings. Only
            tensors, plain containers and its command line are read.
        destination: file to write; its folder is created.

    Raises:
        UserError: ``source`` cannot be read, names code to run, is not such a checkpoint, or needs a setting that
            norm_transformer does not have; or ``destination`` cannot be written.
    """
    state = _read(source)
    args = _command_line(state, source)
    settings = convert_settings(args, source)
    languages = {name: _required(args, name, source) for name in ("source_lang", "target_lang")}
    beside = all((source.parent / f"dict.{language}.txt").exists() for language in languages.values())
    recorded = _required(args, "data", source)
    data = source.parent.resolve() if beside else recorded if isinstance(recorded, str) else recorded[0]
    task = Namespace()
    for side, attribute in (("encoder", "source_dictionary"), ("decoder", "target_dictionary")):
        weight = state["model"].get(f"{side}.embed_tokens.weight")
        if not isinstance(weight, Tensor):
            raise UserError(f"{source}: its model lacks {side}.embed_tokens.weight")
        setattr(task, attribute, numbered_dictionary(len(weight)))
    weights = convert_weights(state["model"], NormTransformer.build_model(settings, task), source)
    padding = {name: getattr(args, name) for name in ("left_pad_source", "left_pad_target") if hasattr(args, name)}
    ours = {name: value for name, value in vars(settings).items() if not name.startswith("_")}
    namespace = Namespace(task="translation", arch="norm_transformer", data=str(data), **languages, **padding, **ours)
    history: dict[str, Any] = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}}
    history["num_updates"] = state["optimizer_history"][-1]["num_updates"] if state.get("optimizer_history") else 0
    checkpoint = {
        "cfg": OmegaConf.to_container(convert_namespace_to_omegaconf(namespace), resolve=True, enum_to_str=True),
        "model": weights,
        "optimizer_history": [history],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    try:
        with whole_file(destination) as temporary:
            torch.save(checkpoint, temporary)
    except RuntimeError as error:  # a full disk
        raise UserError(f"cannot write {destination}: {error}") from error


def _read(source: Path) -> dict[str, Any]:
    """Read tensors, plain containers and a Namespace from the checkpoint; refuse any other object."""
    try:
        with torch.serialization.safe_globals(_METERS):
            state = torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}") from error
    except Exception as error:  # torch raises many types for files of another format
        raise UserError(f"{source} was refused: {why_refused(error)}") from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{source} is not a checkpoint of fairseq: it lacks 'model'")
    return state


def _command_line(state: dict[str, Any], source: Path) -> Namespace:
    """Return the settings of model and task: ``args`` up to fairseq 0.9, sections of ``cfg`` since then."""
    if isinstance(state.get("args"), Namespace):
        return state["args"]
    if not isinstance(state.get("cfg"), dict):
        raise UserError(f"{source} is not a checkpoint of fairseq: it lacks 'args' (a Namespace) and 'cfg'")
    flat: dict[str, Any] = {}
    for section in (state["cfg"].get(name) for name in ("task", "model")):
        for name, value in (vars(section) if isinstance(section, Namespace) else section or {}).items():
            nested = value if name in ("encoder", "decoder") and isinstance(value, dict) else {}
            flat |= {f"{name}_{inner}": of_it for inner, of_it in nested.items()} or {name: value}
    return Namespace(**flat)


def convert_settings(stored: Any, source: Path | str) -> NormTransformerConfig:
    """Convert the settings of the released code, or of stock fairseq's transformer, to norm_transformer's.

    Args:
        stored: a complete fairseq command line (Namespace or TransformerConfig).
        source: name of the checkpoint in error messages.

    Raises:
        UserError: a setting is missing, or has no counterpart here.
    """
    norms: dict[str, Any] = {}
    if any(name.endswith("_norm_self") for name in vars(stored)):  # the released code
        for side in ("encoder", "decoder"):
            used = {_required(stored, f"{side}_norm_{part}", source) for part in ("self", "ff")}
            if len(used) != 1 or not used <= NORM_NAMES.keys():
                raise UserError(
                    f"{source}: the {side} has {', '.join(sorted(map(str, used)))} norms, but only a stack whose norms "
                    f"are all the same, one of {', '.join(NORM_NAMES)}, can be imported"
                )
            norms[f"{side}_norm"] = NORM_NAMES[used.pop()]
        norms["norm_warmup_updates"] = getattr(stored, "warmup_updates", None)
    for name in UNSUPPORTED:
        if value := getattr(stored, name, None):
            raise UserError(f"{source}: {name}={value!r} has no counterpart in norm_transformer")
    placements = {_required(stored, f"{side}_normalize_before", source) for side in ("encoder", "decoder")}
    if len(placements) != 1:
        raise UserError(f"{source}: encoder and decoder must both be pre-norm or both post-norm")
    settings = Namespace(
        **{name: _required(stored, name, source) for name in SAME_NAME},
        normalize_before=placements.pop(),
        # fairseq uses relu_dropout if activation_dropout is 0
        activation_dropout=getattr(stored, "activation_dropout", 0.0) or getattr(stored, "relu_dropout", 0.0),
        **norms,
    )
    return NormTransformerConfig.resolve(settings)


def _required(stored: Any, name: str, source: Path | str) -> Any:
    """Return a setting; raise UserError if it is missing."""
    if not hasattr(stored, name):
        raise UserError(f"{source}: its settings lack {name!r}; is it a checkpoint of fairseq's transformer?")
    return getattr(stored, name)


def numbered_dictionary(size: int) -> Dictionary:
    """Return a dictionary of this size with placeholder words, enough to build a model."""
    dictionary = Dictionary()
    for index in range(len(dictionary), size):
        dictionary.add_symbol(str(index))
    return dictionary


def stock_names(name: str) -> list[str]:
    """Return the names in fairseq's state dict of our parameter ``name``; a packed projection has several."""
    for ours, stock in STOCK_NAMES:
        name = name.replace(ours, stock)
    for packed in ("qkv", "kv", "q"):
        if f".{packed}." in name:
            return [name.replace(f".{packed}.", f".{part}_proj.") for part in packed]
    return [name]


def convert_weights(stored: State, model: NormTransformer, source: Path | str) -> State:
    """Rename, pack and reshape a fairseq state dict to the names, shapes and dtypes of ``model``.

    Raises:
        UserError: a parameter is missing, has another shape, or is left over.
    """
    left = {name for name in stored if not _UNREAD.fullmatch(name)}
    packed = {}
    for name, ours in model.state_dict().items():
        parts = stock_names(name)
        if name == "decoder.output_projection.weight":
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
