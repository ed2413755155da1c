"""Imports checkpoints of the released PowerNorm code (a fork of fairseq 0.8) and of stock fairseq's transformer."""

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

from normplugins.models.config import NormTransformerConfig
from normplugins.models.stock import State, pack, setting, shared_settings
from normplugins.models.transformer import NormTransformer
from normplugins.utils.errors import UserError

NORM_NAMES = {"power": "pn", "layer": "ln", "batch": "bn_released"}
"""The released code's ``--encoder-norm-self`` and so on, in our names."""


class _Ignored:
    """Placeholder for the training meters of a checkpoint, which are not needed."""


_METERS: list[Any] = [(_Ignored, f"fairseq.meters.{name}") for name in ("AverageMeter", "TimeMeter", "StopwatchMeter")]


def _read(source: Path) -> dict[str, Any]:
    """Read tensors, plain containers and a Namespace from the checkpoint; refuse any other object."""
    try:
        with torch.serialization.safe_globals(_METERS):
            state = torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        if "GLOBAL " in str(error):
            name = str(error).partition("GLOBAL ")[2].split(" ")[0]
            raise UserError(
                f"{source} is refused: it contains {name}, and loading that could run arbitrary code"
            ) from error
        raise UserError(f"{source} is not a checkpoint, or a damaged one") from error
    except Exception as error:  # torch raises many types for files of another format
        raise UserError(f"{source} is not a checkpoint, or a damaged one") from error
    if not isinstance(state, dict) or "model" not in state:
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


def _settings(args: Namespace, source: Path) -> NormTransformerConfig:
    """Translate the command line of the released code, or of stock fairseq, to norm_transformer's settings."""
    if not any(name.endswith("_norm_self") for name in vars(args)):
        return shared_settings(args, source)
    norms = {}
    for side in ("encoder", "decoder"):
        used = {setting(args, f"{side}_norm_{part}", source) for part in ("self", "ff")}
        if len(used) != 1 or not used <= NORM_NAMES.keys():
            raise UserError(
                f"{source}: {side} norms {', '.join(sorted(map(str, used)))}; "
                f"one norm for the whole stack, of {', '.join(NORM_NAMES)}, can be imported"
            )
        norms[f"{side}_norm"] = NORM_NAMES[used.pop()]
    return shared_settings(args, source, **norms, norm_warmup_updates=getattr(args, "warmup_updates", None))


class _Languages:
    """The part of a fairseq task that is needed to build a model: its dictionaries."""

    def __init__(self, released: State, source: Path) -> None:
        for side, attribute in (("encoder", "source_dictionary"), ("decoder", "target_dictionary")):
            weight = released.get(f"{side}.embed_tokens.weight")
            if not isinstance(weight, Tensor):
                raise UserError(f"{source}: its model lacks {side}.embed_tokens.weight")
            setattr(self, attribute, numbered_dictionary(len(weight)))


def numbered_dictionary(size: int) -> Dictionary:
    """Return a dictionary of this size with placeholder words, enough to build a model."""
    dictionary = Dictionary()
    for index in range(len(dictionary), size):
        dictionary.add_symbol(str(index))
    return dictionary


def import_checkpoint(source: Path, destination: Path, data: Path | None = None) -> None:
    """Write ``source`` as a norm_transformer checkpoint that stock fairseq tools load.

    Args:
        source: checkpoint of the released code or of stock fairseq's transformer, detected from its settings. Only
            tensors, plain containers and its command line are read.
        destination: file to write; its folder is created.
        data: folder with the dictionaries, recorded in the checkpoint; None: the folder of ``source`` if it contains
            them, otherwise the folder that the checkpoint names.

    Raises:
        UserError: ``source`` cannot be read, contains code, is not such a checkpoint, or needs a setting that
            norm_transformer does not have; or ``destination`` cannot be written.
    """
    state = _read(source)
    args = _command_line(state, source)
    settings = _settings(args, source)
    languages = {name: setting(args, name, source) for name in ("source_lang", "target_lang")}
    if data is None:
        beside = all((source.parent / f"dict.{language}.txt").exists() for language in languages.values())
        recorded = setting(args, "data", source)
        data = source.parent.resolve() if beside else Path(recorded if isinstance(recorded, str) else recorded[0])
    model = NormTransformer.build_model(settings, _Languages(state["model"], source))
    weights = pack(state["model"], model, source)
    padding = {name: getattr(args, name) for name in ("left_pad_source", "left_pad_target") if hasattr(args, name)}
    namespace = Namespace(task="translation", arch="norm_transformer", data=str(data), **languages, **padding)
    vars(namespace).update({name: value for name, value in vars(settings).items() if not name.startswith("_")})
    history: dict[str, Any] = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}}
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
