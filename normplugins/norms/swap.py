"""Replaces every LayerNorm and RMSNorm of a model by another norm."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from normplugins.norms.foreign import ForeignNorm, find_norms
from normplugins.norms.mask_hooks import MaskFromCall, modules_with_mask
from normplugins.norms.registry import NormConfig, build_norm, has_statistics, is_norm, sees_sentence


@dataclass(frozen=True)
class SwapReport:
    """What :func:`swap_norms` did with each norm, by its name in the model."""

    replaced: dict[str, str]
    """what the new norm kept of the old one, and from where it takes the padding mask if it reads one"""
    left: dict[str, str]
    """why the norm was not replaced"""

    def __str__(self) -> str:
        alike: dict[str, list[str]] = {}
        for name, kept in self.replaced.items():
            alike.setdefault(kept, []).append(name)
        lines = []
        for kept, (name, *others) in alike.items():
            lines.append(f"{name}{f' and {len(others)} more' if others else ''}: {kept}")
        return "\n".join([*lines, *(f"{name} is left: {reason}" for name, reason in self.left.items())])


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

    Norms with running statistics need to know which positions are padding. They get the mask from an argument of the
    model's forward, or of the forward of a module inside it. mask_hooks.py lists the names of such arguments:
    ``PADDING_MASKS``, such as ``src_key_padding_mask`` (True at padding), and ``ATTENTION_MASKS``, such as
    ``attention_mask`` (1 at tokens). If there is no such argument, use :func:`using_padding_mask`. PyTorch's fused
    encoder and its nested tensors are not used with the new norms.

    Args:
        model: any module with norms inside; it is changed in place.
        norm: the name of the new norm, or its config.
        batch_first: whether x is (B, T, C) rather than (T, B, C). By default, as in the model's PyTorch attention or
            recurrent modules, and True for Hugging Face's models.
        only: a function of a norm's name in the model, such as ``layers.0.norm1``; if it returns False, the norm stays.
            A norm that the model holds in several places has the first of its names.
        settings: settings of the new norm.

    Returns:
        What was replaced and what was left; ``print`` shows it.

    Raises:
        ValueError: there is nothing to replace, a setting is invalid, or the layout of x matters but is not known. The
            model is unchanged.
    """
    config = NormConfig(norm, **settings) if isinstance(norm, str) else norm.replace(**settings)
    found, left = find_norms(model, only)
    if not found:
        reasons = "; no name passes only" if only and not left else ""
        reasons += "".join(f"; {name}: {reason}" for name, reason in left.items())
        raise ValueError(f"{type(model).__name__} has no LayerNorm or RMSNorm inside that can be replaced{reasons}")
    batch_first = _layout(model) if batch_first is None else batch_first
    reads_mask = has_statistics(config.name) or sees_sentence(config.name)
    sources = []
    for path, module, argument in modules_with_mask(model) if reads_mask else ():
        inside = {id(each) for each in module.modules()}
        if olds := [old for old in found if id(old.module) in inside]:
            sources.append((path, module, argument, olds))
    if batch_first is None and (sources or sees_sentence(config.name)):
        raise ValueError(
            "the layout of x, (B, T, C) or (T, B, C), is not known; pass batch_first=True or batch_first=False"
        )

    built = {id(old.module): _build(model, old, config, batch_first, settings) for old in found}
    _warn(config.name, built[id(found[0].module)][0])
    for parent in list(model.modules()):
        for attribute, child in parent._modules.items():  # a norm may be in several places
            if id(child) in built:
                setattr(parent, attribute, built[id(child)][0])
    masks: dict[str, str] = {}
    for path, module, argument, olds in sources:
        MaskFromCall(module, argument, [built[id(old.module)][0] for old in olds])
        masks |= {old.name: f"; padding mask: {argument} of {path or 'the model'}" for old in olds}
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(map(is_norm, module.layers.modules())):
            module.use_nested_tensor = False
    no_mask = "; padding counts as tokens outside using_padding_mask" if reads_mask else ""
    replaced = {old.name: built[id(old.module)][1] + masks.get(old.name, no_mask) for old in found}
    return SwapReport(replaced, left)


@torch.no_grad()
def _build(
    model: nn.Module, old: ForeignNorm, config: NormConfig, batch_first: bool | None, settings: dict[str, Any]
) -> tuple[nn.Module, str]:
    """Build the replacement of ``old`` on its device and in its dtype, copy what fits, and say what that was."""
    keeps_eps = config.eps is None and "eps" in config.settings_read() and old.eps is not None
    given = settings | ({"eps": old.eps} if keeps_eps else {})
    new = build_norm(config, old.dim, batch_first=batch_first, **given)
    parent = model.get_submodule(old.name.rpartition(".")[0])
    like = next((each for module in (old.module, parent) for each in module.parameters()), None)
    if like is not None:
        new.to(like.device, like.dtype)
    new.train(old.module.training)
    kept = []
    for key in ("weight", "bias"):
        theirs, ours = getattr(old, key), getattr(new, key)
        if theirs is not None and ours is not None and theirs.shape == ours.shape:
            ours.copy_(theirs).requires_grad_(getattr(old.module, key).requires_grad)
            kept.append(key)
    kept += ["eps"] if keeps_eps else []
    return new, f"kept {', '.join(kept) or 'nothing'}"


def _layout(model: nn.Module) -> bool | None:
    """Return whether x is (B, T, C) in the model, or None if that is not known or differs inside the model."""
    layouts = {each.batch_first for each in model.modules() if isinstance(each, nn.MultiheadAttention | nn.RNNBase)}
    if any(type(each).__module__.startswith("transformers.") for each in model.modules()):
        layouts.add(True)
    return layouts.pop() if len(layouts) == 1 else None


def _warn(name: str, norm: nn.Module) -> None:
    """Warn about requirements of this norm in any model."""
    if sees_sentence(name):
        warnings.warn(
            f"with {name} each position sees its whole sentence, whatever the attention mask hides: do not use it in "
            "a model that predicts the next token",
            stacklevel=3,
        )
    if hasattr(norm, "wrap_linears"):
        warnings.warn(f"{name} reparametrizes linear maps: call wrap_linears(sublayer) of each norm", stacklevel=3)
    if hasattr(norm, "loss_term"):
        warnings.warn(f"{name} has a term in the loss: add loss_term of each norm to every batch's loss", stacklevel=3)
