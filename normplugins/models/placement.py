"""The norm of a stack as settings of its model: one ``norm_<field>`` per NormConfig field, shared by all its norms."""

import ast
import inspect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Any

from fairseq.dataclass import FairseqDataclass
from torch import nn

from normplugins.norms import NormConfig, build_norm, resolve_norm, settings_read
from normplugins.utils.errors import UserError


def setting(default: Any, text: str) -> Any:
    """Make a dataclass field with this default and help text."""
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
        (f"norm_{f.name}", f.type, setting(f.default, f"norms: {docs[f.name]}"))
        for f in fields(NormConfig)
        if f.name != "name"
    ]


NormSettings: Any = make_dataclass("NormSettings", _norm_fields(), bases=(FairseqDataclass,))
"""Base of a model's settings: every field of NormConfig but the name, as ``norm_<field>``."""


@dataclass(frozen=True)
class Stack:
    """A stack of layers that share a norm: ``key`` names the setting that holds the norm's name."""

    key: str
    dim: int
    heads: int

    @property
    def final_key(self) -> str:
        """The setting that can name another norm for the end of a pre-norm stack: not every stack has one."""
        return final_key(self.key)


def final_key(key: str) -> str:
    """``decoder_norm`` to ``decoder_final_norm``."""
    return f"{key.removesuffix('norm')}final_norm"


def norm_names(cfg: Any, keys: Sequence[str]) -> dict[str, str]:
    """Setting -> norm, of each stack whose norm is a setting in ``keys`` and of each end that has another."""
    every = [name for key in keys for name in (key, final_key(key))]
    return {key: name for key in every if (name := getattr(cfg, key, None))}


def stack_norm_config(cfg: Any, stack: Stack, final: bool = False) -> NormConfig:
    """NormConfig of a stack's norms; ``final``: of the one that ends a pre-norm stack, with its own warmup.

    A model's stacks share the ``norm_<field>`` settings, and each norm reads those that it has. Channel groups follow
    the stack's heads, and a norm that never warms up has no final warmup.

    Raises:
        UserError: an unknown norm, or a value out of range.
    """
    key = stack.final_key if final and getattr(cfg, stack.final_key, None) else stack.key
    try:
        config = resolve_norm(_norm_config(cfg, getattr(cfg, key)), stack.heads)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error
    return replace(config, warmup_updates=cfg.final_norm_warmup_updates) if final and config.warmup_updates else config


def unread_settings(cfg: Any, keys: Sequence[str]) -> dict[str, Any]:
    """``norm_<field>`` -> its default, for each that no norm reads; arguments as in :func:`norm_names`.

    Raises:
        UserError: an unknown norm, or a value out of range.
    """
    read = set().union(*_settings_read(cfg, keys).values())
    return {f"norm_{f.name}": f.default for f in fields(NormConfig) if f.name not in read | {"name"}}


def refuse_unread_settings(cfg: Any, keys: Sequence[str], prefix: str = "norm_") -> None:
    """Refuse a norm's setting that no norm of the model reads, and that is not at its default.

    A checkpoint's settings are not refused: it may have been written when they were accepted.

    Args:
        cfg: the model's settings.
        keys: those that hold a norm's name.
        prefix: how the setting is written where the user sets it: ``norm_groups`` or ``norm.groups``.

    Raises:
        UserError: the first such setting, its value, the norms and what they read; or as :func:`unread_settings`.
    """
    for key, default in unread_settings(cfg, keys).items():
        if (value := getattr(cfg, key)) == default:
            continue
        name, norms = key.removeprefix("norm_"), _settings_read(cfg, keys)
        switch = next(f.metadata.get("switch") for f in fields(NormConfig) if f.name == name)
        if switch and f"norm_{name}" not in unread_settings(replace(cfg, **{f"norm_{switch}": True}), keys):
            why = f" while {prefix}{switch} is off: set {prefix}{switch}=true to use it"
        else:
            why = ": " + "; ".join(f"{norm} reads {', '.join(read) or 'no setting'}" for norm, read in norms.items())
        raise UserError(f"{prefix}{name}={str(value).lower()} changes nothing about {' and '.join(norms)}{why}")


def build_stack_norm(cfg: Any, stack: Stack, final: bool = False) -> nn.Module:
    """Build a norm of the stack's width; arguments and errors as in :func:`stack_norm_config`."""
    try:
        return build_norm(stack_norm_config(cfg, stack, final), stack.dim)
    except ValueError as error:
        raise UserError(f"{stack.key}: {error}") from error


def _norm_config(cfg: Any, name: str) -> NormConfig:
    return NormConfig(name, **{f.name: getattr(cfg, f"norm_{f.name}") for f in fields(NormConfig) if f.name != "name"})


def _settings_read(cfg: Any, keys: Sequence[str]) -> dict[str, list[str]]:
    """Norm of the model -> the fields of NormConfig that it reads."""
    read = {}
    for key, name in norm_names(cfg, keys).items():
        try:
            read[name] = settings_read(_norm_config(cfg, name))
        except ValueError as error:
            raise UserError(f"{key}: {error}") from error
    return read
