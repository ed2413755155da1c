"""Replaces every LayerNorm and RMSNorm of a model by another norm."""

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from normplugins.norms.foreign import ForeignNorm, find_norms
from normplugins.norms.mask_hooks import MaskFromCall, modules_with_mask
from normplugins.norms.registry import NormConfig, build_norm, has_statistics, is_norm, sees_sentence


@dataclass(frozen=True)
class ReplacedNorm:
    """A norm that :func:`swap_norms` replaced: its name in the model, its class, and what became of its weights."""

    name: str
    was: str
    kept: tuple[str, ...]
    """weights and settings that the new norm takes over from the old one"""
    new: tuple[str, ...]
    """weights and settings that the old norm does not have; they have their initial values or defaults"""
    dropped: tuple[str, ...]
    """weights that the new norm does not have, or has in another shape"""

    def fate(self) -> str:
        """What became of the weights, in words."""
        parts = {"kept": self.kept, "new": self.new, "dropped": self.dropped}
        return "; ".join(f"{what} {', '.join(names)}" for what, names in parts.items() if names) or "no weights"


@dataclass(frozen=True)
class SwapReport:
    """What :func:`swap_norms` did; ``print`` shows it."""

    norm: str
    replaced: tuple[ReplacedNorm, ...]
    left: dict[str, str]
    """norms that were not replaced: name -> the reason"""
    masks: dict[str, str]
    """where padding masks come from: name of a module inside the model, "" for the model -> argument of its forward"""
    counts_padding: tuple[str, ...]
    """norms with statistics that get no mask, so that padding counts as tokens"""
    notes: tuple[str, ...]

    def __str__(self) -> str:
        alike: dict[tuple[str, str, str], list[str]] = {}  # norms of several layers share a line: layers.*.norm1
        for each in self.replaced:
            alike.setdefault((re.sub(r"\b\d+\.", "*.", each.name), each.was, each.fate()), []).append(each.name)
        lines = [f"{self.norm} in place of {len(self.replaced)} norm{'s' if len(self.replaced) > 1 else ''}:"]
        for (pattern, was, fate), names in alike.items():
            many = len(names) > 1
            lines.append(f"  {pattern if many else names[0]} ({f'{len(names)} x ' if many else ''}{was}): {fate}")
        lines += [f"left: {name}: {reason}" for name, reason in self.left.items()]
        for path, argument in self.masks.items():
            lines.append(f"padding mask: {argument} of {path or 'the model'}; a call without it has no padding")
        if self.counts_padding:
            lines.append(
                f"padding counts as tokens in {', '.join(self.counts_padding)}: no mask argument is known; "
                "call the model inside using_padding_mask(model, padding_mask)"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    __repr__ = __str__


def swap_norms(
    model: nn.Module,
    norm: NormConfig | str,
    *,
    batch_first: bool | None = None,
    only: Callable[[str], bool] | None = None,
    **settings: Any,
) -> SwapReport:
    """Replace every LayerNorm and RMSNorm inside ``model``: ``print(swap_norms(model, "pn", groups=8))``.

    It replaces ``nn.LayerNorm``, ``nn.RMSNorm`` and classes named ``*LayerNorm`` or ``*RMSNorm``, as in Hugging Face's
    models, if they compute what their names say. Weight, bias and eps are kept where the new norm has them. The
    parameters are new objects, so create the optimizer afterwards.

    Norms with running statistics need to know which positions are padding. The mask is taken from the call of the
    model, or of the modules inside it, if its forward has an argument named in ``PADDING_MASKS``, such as
    ``src_key_padding_mask`` (True at padding), or in ``ATTENTION_MASKS``, such as ``attention_mask`` (1 at tokens); see
    mask_hooks.py. Otherwise use :func:`using_padding_mask`. PyTorch's fused encoder and its nested tensors are not used
    with the new norms.

    Args:
        model: any module with norms inside; it is changed in place.
        norm: the name of the new norm, or its config.
        batch_first: whether x is (B, T, C) rather than (T, B, C). By default, as in the model's PyTorch attention or
            recurrent modules, and True for Hugging Face's models.
        only: a function of a norm's name in the model, such as ``layers.0.norm1``; if it returns False, the norm stays.
        settings: settings of the new norm.

    Returns:
        What was replaced and what was left, which weights were kept, and where padding masks come from.

    Raises:
        ValueError: there is nothing to replace, a setting is invalid, the layout of x matters but is not known, or a
            norm that sees whole sentences would be in a decoder. The model is unchanged.
    """
    config = NormConfig(norm, **settings) if isinstance(norm, str) else norm.replace(**settings)
    found, left = find_norms(model, only)
    if not found:
        reasons = "; no name passes only" if only and not left else ""
        reasons += "".join(f"; {name}: {reason}" for name, reason in left.items())
        raise ValueError(f"{type(model).__name__} has no LayerNorm or RMSNorm inside that can be replaced{reasons}")
    batch_first = _layout(model) if batch_first is None else batch_first
    notes = _notes(model, config, [old.name for old in found])
    reads_mask = has_statistics(config.name) or sees_sentence(config.name)
    sources = []
    for path, module, argument in modules_with_mask(model) if reads_mask else ():
        inside = {id(each) for each in module.modules()}
        if olds := [old for old in found if id(old.module) in inside]:
            sources.append((path, module, argument, olds))
    if batch_first is None and (sources or sees_sentence(config.name)):
        raise ValueError("whether x is (B, T, C) or (T, B, C) is not known; pass batch_first=True or batch_first=False")

    built = {old.name: _build(old, config, batch_first, settings) for old in found}
    if hasattr(built[found[0].name][0], "wrap_linears"):
        notes.append(f"{config.name} reparametrizes linear maps too: call wrap_linears(sublayer) of each norm")
    if hasattr(built[found[0].name][0], "loss_term"):
        notes.append(f"{config.name} has a term in the loss: add loss_term of each norm to the loss of every batch")
    for old in found:
        for parent, attribute in old.places:
            setattr(parent, attribute, built[old.name][0])
    for _, module, argument, olds in sources:
        MaskFromCall(module, argument, [built[old.name][0] for old in olds])
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(map(is_norm, module.layers.modules())):
            module.use_nested_tensor = False
    masked = {old.name for *_, olds in sources for old in olds}
    return SwapReport(
        norm=config.name,
        replaced=tuple(replaced for _, replaced in built.values()),
        left=left,
        masks={path: argument for path, _, argument, _ in sources},
        counts_padding=tuple(name for name in built if name not in masked) if reads_mask else (),
        notes=tuple(notes),
    )


@torch.no_grad()
def _build(
    old: ForeignNorm, config: NormConfig, batch_first: bool | None, settings: dict[str, Any]
) -> tuple[nn.Module, ReplacedNorm]:
    """Build the replacement of ``old`` on its device and in its dtype, and copy the weights that fit."""
    needs_eps = config.eps is None and "eps" in config.settings_read()
    given = settings | ({"eps": old.eps} if needs_eps and old.eps is not None else {})
    new = build_norm(config, old.dim, batch_first=batch_first, **given)
    like = next((each for module in (old.module, old.places[0][0]) for each in module.parameters()), None)
    if like is not None:
        new.to(like.device, like.dtype)
    new.train(old.module.training)
    state: dict[str, list[str]] = {"kept": [], "new": [], "dropped": []}
    for key in ("weight", "bias"):
        theirs, ours = getattr(old, key), getattr(new, key)
        if theirs is not None and ours is not None and theirs.shape == ours.shape:
            ours.copy_(theirs).requires_grad_(getattr(old.module, key).requires_grad)
            state["kept"].append(key)
        else:
            state["dropped"] += [key] if theirs is not None else []
            state["new"] += [key] if ours is not None else []
    if needs_eps:
        state["new" if old.eps is None else "kept"].append("eps")
    return new, ReplacedNorm(old.name, type(old.module).__name__, **{key: tuple(each) for key, each in state.items()})


def _layout(model: nn.Module) -> bool | None:
    """Return whether x is (B, T, C) in the model, or None if that is not known or differs inside the model."""
    layouts = {each.batch_first for each in model.modules() if isinstance(each, nn.MultiheadAttention | nn.RNNBase)}
    if any(type(each).__module__.startswith("transformers.") for each in model.modules()):
        layouts.add(True)
    return layouts.pop() if len(layouts) == 1 else None


def _notes(model: nn.Module, config: NormConfig, names: list[str]) -> list[str]:
    """Return what a user must know about this norm in this model; raise ValueError if the model must not have it."""
    in_decoder = [name for name in names if any(name.startswith(part) for part in _causal_parts(model))]
    notes = []
    if sees_sentence(config.name):
        note = f"with {config.name} each position sees its whole sentence, whatever the attention mask hides"
        if in_decoder:
            raise ValueError(f"{in_decoder[0]} is in a decoder, and {note}; swap the norms of an encoder only")
        warnings.warn(f"{note}: it is not for a model that predicts the next token", stacklevel=3)
        notes.append(note)
    elif has_statistics(config.name) and in_decoder:
        notes.append("in training the statistics are over all tokens of the batch, also later ones than a decoder sees")
    return notes


def _causal_parts(model: nn.Module) -> Iterator[str]:
    """Yield name prefixes of the modules inside a decoder, as far as attributes of the model tell."""
    for path, module in model.named_modules():
        if (
            isinstance(module, nn.TransformerDecoderLayer | nn.TransformerDecoder)
            or getattr(module, "is_decoder", False) is True
        ):
            yield f"{path}." if path else ""
        if getattr(module, "is_causal", False) is True:  # an attention of Hugging Face's models
            parent, dot, _ = path.rpartition(".")
            yield parent + dot
