"""The norms of a model's stacks, from the model's settings ``norm_<setting>`` that all its norms share."""

from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass, replace
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass
from torch import nn

from normplugins.norms import NormConfig, all_settings, build_norm
from normplugins.utils.errors import UserError
from normplugins.utils.settings import setting


def _norm_fields() -> list[tuple[str, Any, Any]]:
    """Return ``norm_<setting>`` of every setting that a registered norm has, with type, default and documentation."""
    return [
        (f"norm_{name}", one.type if one.default is not None else Optional[one.type], setting(one.default, one.help))  # noqa: UP045
        for name, one in all_settings().items()
    ]


NormSettings: Any = make_dataclass("NormSettings", _norm_fields(), bases=(FairseqDataclass,))
"""Base class of a model's settings: every setting of a norm as ``norm_<setting>``. None stands for its own default."""


@dataclass(frozen=True)
class Stack:
    """A stack of layers that share a norm; ``key`` is the setting that holds the norm's name."""

    key: str
    dim: int
    heads: int

    @property
    def final_key(self) -> str:
        """The setting that may name another norm for the end of a pre-norm stack; not every stack has one."""
        return final_key(self.key)


def final_key(key: str) -> str:
    """Return ``decoder_final_norm`` for ``decoder_norm``."""
    return f"{key.removesuffix('norm')}final_norm"


def norm_names(cfg: Any, keys: Sequence[str]) -> dict[str, str]:
    """Return setting -> norm, for the stacks whose norm is a setting in ``keys`` and for ends with another norm."""
    every = [name for key in keys for name in (key, final_key(key))]
    return {key: name for key in every if (name := getattr(cfg, key, None))}


def norm_config(cfg: Any, name: str) -> NormConfig:
    """Return the NormConfig of a norm with a model's ``norm_<setting>`` values."""
    return NormConfig(name, **{key: getattr(cfg, f"norm_{key}", None) for key in all_settings()})


def stack_norm_config(cfg: Any, stack: Stack, final: bool = False) -> NormConfig:
    """Return the NormConfig of a stack's norms, or with ``final`` of the norm at the end of a pre-norm stack.

    The stacks of a model share the ``norm_<setting>`` values, and each norm reads those that it has. The default number
    of channel groups is the stack's number of heads. The final norm has its own warmup if it warms up at all.

    Raises:
        UserError: an unknown norm, or a value out of range.
    """
    key = stack.final_key if final and getattr(cfg, stack.final_key, None) else stack.key
    try:
        config = norm_config(cfg, getattr(cfg, key)).resolve(stack.heads)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error
    return config.replace(warmup_updates=cfg.final_norm_warmup_updates) if final and config.warmup_updates else config


def build_stack_norm(cfg: Any, stack: Stack, final: bool = False) -> nn.Module:
    """Build a norm of the stack's width; arguments and errors as in :func:`stack_norm_config`."""
    try:
        return build_norm(stack_norm_config(cfg, stack, final), stack.dim)
    except ValueError as error:
        raise UserError(f"{stack.key}: {error}") from error


def unread_settings(cfg: Any, keys: Sequence[str]) -> dict[str, Any]:
    """Return ``norm_<setting>`` -> its default, for each setting that no norm reads; arguments as in
    :func:`norm_names`.

    Raises:
        UserError: an unknown norm, or a value out of range.
    """
    read = set().union(*_settings_read(cfg, keys).values())
    return {f"norm_{name}": one.default for name, one in all_settings().items() if name not in read}


def refuse_unread_settings(cfg: Any, keys: Sequence[str], prefix: str = "norm_") -> None:
    """Refuse a norm setting that is not at its default and that no norm of the model reads.

    Do not call it for the settings of a checkpoint, which may have been written when such settings were accepted.

    Args:
        cfg: the model's settings.
        keys: the settings that hold a norm's name.
        prefix: the prefix of a setting where the user sets it: ``norm_`` or ``norm.``.

    Raises:
        UserError: the first such setting, its value, the norms and what they read; or as :func:`unread_settings`.
    """
    unread = {key: default for key, default in unread_settings(cfg, keys).items() if getattr(cfg, key) != default}
    if not unread:
        return
    key = next(iter(unread))
    name, value, norms = key.removeprefix("norm_"), str(getattr(cfg, key)).lower(), _settings_read(cfg, keys)
    if switch := _missing_switch(cfg, keys, name):
        off, on = ("off", "=true") if all_settings()[switch].type is bool else ("0", "")
        why = f" while {prefix}{switch} is {off}: set {prefix}{switch}{on} to use it"
    else:
        why = ": " + "; ".join(f"{norm} reads {', '.join(read) or 'no setting'}" for norm, read in norms.items())
    raise UserError(f"{prefix}{name}={value} changes nothing about {' and '.join(norms)}{why}")


def _missing_switch(cfg: Any, keys: Sequence[str], name: str) -> str | None:
    """Return the switch that some norm of the model needs to read the setting ``name``."""
    for switch in all_settings()[name].switches:
        if f"norm_{name}" not in unread_settings(replace(cfg, **{f"norm_{switch}": True}), keys):
            return switch
    return None


def _settings_read(cfg: Any, keys: Sequence[str]) -> dict[str, list[str]]:
    """Return norm -> the settings that it reads, for the norms of the model."""
    read = {}
    for key, name in norm_names(cfg, keys).items():
        try:
            read[name] = norm_config(cfg, name).settings_read()
        except ValueError as error:
            raise UserError(f"{key}: {error}") from error
    return read
