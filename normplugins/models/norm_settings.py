"""The norm of a stack as settings of its model: one ``norm_<field>`` per NormConfig field, shared by all its norms."""

import ast
import inspect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Any

from fairseq.dataclass import FairseqDataclass
from torch import nn

from normplugins.errors import UserError
from normplugins.norms import NormConfig, build_norm, has_kernels, has_statistics, resolve_norm

HEAD_GROUPED = ("pn", "pn_alg2")
"""Norms whose group scaling has, unless told otherwise, one group per attention head."""


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


def stack_norm_config(cfg: Any, stack: Stack, keys: Sequence[str], final: bool = False) -> NormConfig:
    """NormConfig of a stack's norms; ``final``: of the one that ends a pre-norm stack, with its own warmup.

    A model's stacks, whose norms are the settings ``keys``, share the ``norm_<field>`` settings; each norm reads those
    that it has. PN's channel groups are the stack's heads, and a norm that never warms up has no final warmup.

    Raises:
        UserError: an unknown norm, a value out of range, or a setting that no stack's norm has.
    """
    settings = {f.name: getattr(cfg, f"norm_{f.name}") for f in fields(NormConfig) if f.name != "name"}
    names = norm_names(cfg, keys)
    key = stack.final_key if final and stack.final_key in names else stack.key
    name = names[key]
    if name in HEAD_GROUPED and settings["groups"] is None:
        settings["groups"] = stack.heads
    defaults = [_defaults(key, name) for key, name in names.items()]
    try:
        config = resolve_norm(NormConfig(name=name, **settings))
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error
    given = list(dict.fromkeys(names.values()))
    for switch, value in settings.items():
        if value is True and all(getattr(default, switch) is None for default in defaults):
            raise UserError(f"norm_{switch} is on, and changes nothing about {' and '.join(given)}")
    if (config.sync != "none" or config.per_update) and not any(map(has_statistics, given)):
        which = "norm_per_update is on" if config.sync == "none" else f"norm_sync={config.sync}"
        raise UserError(f"{which}, and changes nothing about {' and '.join(given)}: there are no running statistics")
    return replace(config, warmup_updates=cfg.final_norm_warmup_updates) if final and config.warmup_updates else config


def unread_settings(cfg: Any, keys: Sequence[str]) -> dict[str, Any]:
    """``norm_<field>`` -> its default, for each that no norm reads; arguments as in :func:`stack_norm_config`."""
    names = norm_names(cfg, keys)
    defaults = [_defaults(key, name) for key, name in names.items()]
    unread = [f.name for f in fields(NormConfig) if all(getattr(default, f.name) is None for default in defaults)]
    if not any(map(has_statistics, names.values())):
        unread += ["sync", "per_update"]
    if not any(map(has_kernels, names.values())):
        unread += ["kernels"]
    return {f"norm_{f.name}": f.default for f in fields(NormConfig) if f.name in unread}


def build_stack_norm(cfg: Any, stack: Stack, keys: Sequence[str], final: bool = False) -> nn.Module:
    """Build a norm of the stack's width; arguments and errors as in :func:`stack_norm_config`."""
    try:
        return build_norm(stack_norm_config(cfg, stack, keys, final), stack.dim)
    except ValueError as error:
        raise UserError(f"{stack.key}: {error}") from error


def _defaults(key: str, name: str) -> NormConfig:
    try:
        return resolve_norm(NormConfig(name=name))
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error
