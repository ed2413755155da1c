"""Imports checkpoints of the released PowerNorm code (a fork of fairseq 0.8) as checkpoints of ``norm_transformer``."""

import contextlib
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from fairseq.checkpoint_utils import torch_persistent_save
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from torch import Tensor

from normplugins.errors import UserError
from normplugins.models.config import NormTransformerConfig, resolve_config
from normplugins.models.transformer import NormTransformer

State = dict[str, Tensor]

NORM_NAMES = {"power": "pn", "layer": "ln", "batch": "bn_released"}
"""The released code's ``--encoder-norm-self`` and so on, in our names."""

UNSUPPORTED = {  # setting of the released code -> the only value that norm_transformer can stand for
    "encoder_spec_norm": False,
    "no_token_positional_embeddings": False,
    "no_cross_attention": False,
    "cross_self_attention": False,
    "layer_wise_attention": False,
    "encoder_layers_to_keep": None,
    "decoder_layers_to_keep": None,
    "encoder_learned_pos": False,
    "decoder_learned_pos": False,
    "adaptive_softmax_cutoff": None,
    "adaptive_input": False,
}
SAME_NAME = (
    *(f"{side}_{size}" for side in ("encoder", "decoder") for size in ("layers", "embed_dim", "ffn_embed_dim")),
    *("encoder_attention_heads", "decoder_attention_heads", "dropout", "attention_dropout", "activation_fn"),
    *("share_all_embeddings", "share_decoder_input_output_embed", "max_source_positions", "max_target_positions"),
)


class _Ignored:
    """Stands in for the training meters in a checkpoint: holds what was saved, does nothing."""


_METERS = [(_Ignored, f"fairseq.meters.{name}") for name in ("AverageMeter", "TimeMeter", "StopwatchMeter")]


def _read(source: Path) -> dict[str, Any]:
    """Read the checkpoint as tensors, plain containers and a Namespace; whatever else it holds is refused."""
    try:
        with torch.serialization.safe_globals(_METERS):
            state = torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        if "GLOBAL " in str(error):
            name = str(error).partition("GLOBAL ")[2].split(" ")[0]
            raise UserError(
                f"{source} is refused: beside weights and settings it holds {name}, and loading that could run any code"
            ) from error
        raise UserError(f"{source} is not a checkpoint, or a damaged one") from error
    except Exception as error:  # torch raises many kinds on a file that is not its own
        raise UserError(f"{source} is not a checkpoint, or a damaged one") from error
    if not isinstance(state, dict) or not isinstance(state.get("args"), Namespace) or "model" not in state:
        raise UserError(f"{source} is not a checkpoint of the released code: it lacks 'args' (a Namespace) or 'model'")
    return state


def _setting(args: Namespace, name: str, source: Path) -> Any:
    if not hasattr(args, name):
        raise UserError(f"{source}: its args lack {name!r}; is it a checkpoint of the released PowerNorm code?")
    return getattr(args, name)


def _settings(args: Namespace, source: Path) -> NormTransformerConfig:
    """The released command line in norm_transformer's settings."""
    for name, supported in UNSUPPORTED.items():
        if getattr(args, name, supported) != supported:
            raise UserError(f"{source}: {name}={getattr(args, name)!r} has no counterpart in norm_transformer")
    settings: dict[str, Any] = {name: _setting(args, name, source) for name in SAME_NAME}
    for side in ("encoder", "decoder"):
        used = {_setting(args, f"{side}_norm_{part}", source) for part in ("self", "ff")}
        if len(used) != 1 or not used <= NORM_NAMES.keys():
            raise UserError(
                f"{source}: {side} norms {', '.join(sorted(map(str, used)))}; "
                f"one norm for the whole stack, of {', '.join(NORM_NAMES)}, can be imported"
            )
        settings[f"{side}_norm"] = NORM_NAMES[used.pop()]
    placements = {_setting(args, f"{side}_normalize_before", source) for side in ("encoder", "decoder")}
    if len(placements) != 1:
        raise UserError(f"{source}: encoder and decoder must both be pre-norm or both post-norm")
    return resolve_config(
        Namespace(
            **settings,
            normalize_before=placements.pop(),
            # the released code falls back on relu_dropout where activation_dropout is 0
            activation_dropout=getattr(args, "activation_dropout", 0.0) or getattr(args, "relu_dropout", 0.0),
            norm_warmup_updates=getattr(args, "warmup_updates", None),
        )
    )


def _released_names(name: str) -> list[str]:
    """Names, in a released state dict, of what is ``name`` in ours; the packed projections have one for each part."""
    for ours, released in (
        ("self_attention.sublayer.", "self_attn."),
        ("cross_attention.sublayer.", "encoder_attn."),
        ("feed_forward.sublayer.", ""),
        ("self_attention.norm.", "self_attn_layer_norm."),
        ("cross_attention.norm.", "encoder_attn_layer_norm."),
        ("feed_forward.norm.", "final_layer_norm."),
        ("final_norm.", "layer_norm."),
        (".out.", ".out_proj."),
        ("num_updates", "iters"),
    ):
        name = name.replace(ours, released)
    for packed in ("qkv", "kv", "q"):
        if f".{packed}." in name:
            return [name.replace(f".{packed}.", f".{part}_proj.") for part in packed]
    return [name]


def _convert(released: State, model: NormTransformer, source: Path) -> State:
    """Rename, pack and reshape a released state dict to the names and shapes of ``model``'s."""
    left = {name for name in released if not name.endswith((".version", "._float_tensor", ".num_batches_tracked"))}
    converted = {}
    for name, ours in model.state_dict().items():
        parts = _released_names(name)
        if name == "decoder.output_projection.weight":
            tied = model.decoder.output_projection.weight is model.decoder.embed_tokens.weight
            parts = ["decoder.embed_tokens.weight" if tied else "decoder.embed_out"]
        if missing := [part for part in parts if not isinstance(released.get(part), Tensor)]:
            raise UserError(f"{source}: its model lacks {', '.join(missing)}")
        packed = torch.cat([released[part] for part in parts])
        if packed.numel() != ours.numel() or (packed.dim() == ours.dim() and packed.shape != ours.shape):
            raise UserError(f"{source}: {parts[0]} has shape {tuple(packed.shape)}, the settings ask for {ours.shape}")
        converted[name] = packed.reshape(ours.shape).to(ours.dtype)
        left -= set(parts)
    if left:
        raise UserError(f"{source}: its model holds {', '.join(sorted(left))}, which norm_transformer has not")
    return converted


class _Languages:
    """What building a model asks of a task."""

    def __init__(self, released: State, source: Path) -> None:
        for side, attribute in (("encoder", "source_dictionary"), ("decoder", "target_dictionary")):
            weight = released.get(f"{side}.embed_tokens.weight")
            if not isinstance(weight, Tensor):
                raise UserError(f"{source}: its model lacks {side}.embed_tokens.weight")
            setattr(self, attribute, numbered_dictionary(len(weight)))


def numbered_dictionary(size: int) -> Dictionary:
    """A dictionary of the right size, which is all that building a model asks of one."""
    dictionary = Dictionary()
    for index in range(len(dictionary), size):
        dictionary.add_symbol(str(index))
    return dictionary


def import_checkpoint(source: Path, destination: Path, data: Path | None = None) -> None:
    """Write the released checkpoint ``source`` as a norm_transformer checkpoint that stock fairseq tools load.

    Args:
        source: checkpoint of the released code. Only tensors, plain containers and its command line are read.
        destination: file to write; its folder is made.
        data: folder with the dictionaries, recorded in the checkpoint; None: the folder of ``source`` where they lie
            there, else the one that the checkpoint names.

    Raises:
        UserError: ``source`` cannot be read, holds code, is no such checkpoint, or is of a model that norm_transformer
            has no settings for; or ``destination`` cannot be written.
    """
    state = _read(source)
    args = state["args"]
    settings = _settings(args, source)
    languages = {name: _setting(args, name, source) for name in ("source_lang", "target_lang")}
    if data is None:
        beside = all((source.parent / f"dict.{language}.txt").exists() for language in languages.values())
        recorded = _setting(args, "data", source)
        data = source.parent.resolve() if beside else Path(recorded if isinstance(recorded, str) else recorded[0])
    model = NormTransformer.build_model(settings, _Languages(state["model"], source))
    weights = _convert(state["model"], model, source)
    padding = {name: getattr(args, name) for name in ("left_pad_source", "left_pad_target") if hasattr(args, name)}
    namespace = Namespace(task="translation", arch="norm_transformer", data=str(data), **languages, **padding)
    vars(namespace).update({name: value for name, value in vars(settings).items() if not name.startswith("_")})
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}}
    history["num_updates"] = state["optimizer_history"][-1]["num_updates"] if state.get("optimizer_history") else 0
    checkpoint = {
        "args": None,
        "cfg": OmegaConf.to_container(convert_namespace_to_omegaconf(namespace), resolve=True, enum_to_str=True),
        "model": weights,
        "criterion": None,
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
    }
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        torch_persistent_save(checkpoint, str(destination))
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        with contextlib.suppress(OSError):
            Path(f"{destination}.tmp").unlink()
        raise UserError(f"cannot write {destination}: {getattr(error, 'strerror', None) or error}") from error
