"""Passes padding masks to norms inside models that call their norms with x alone."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from normplugins.norms.inputs import to_padding_mask
from normplugins.norms.registry import is_norm
from normplugins.norms.statistics import recomputing

PADDING_MASKS = ("src_key_padding_mask", "tgt_key_padding_mask", "key_padding_mask", "padding_mask")
"""names of arguments of a model's forward: masks that are True at padding, or floating-point and negative there"""
ATTENTION_MASKS = ("attention_mask", "decoder_attention_mask")
"""names of arguments of a model's forward: masks that are 1 at tokens and 0 at padding"""
OTHER_INPUTS = {"pixel_values", "input_features", "input_values"}
"""names of a model's inputs, such as images, whose positions a mask of text does not describe"""


@contextmanager
def using_padding_mask(
    model: nn.Module, padding_mask: Tensor | None = None, *, attention_mask: Tensor | None = None
) -> Iterator[None]:
    """Inside this context, pass the mask to every norm of this package in ``model`` that is called with x alone.

    With activation checkpointing, run forward and backward inside it, because the backward pass calls the norms again.

    Args:
        model: the model, with norms from ``build_norm`` or ``swap_norms``.
        padding_mask: (B, T), boolean, True at padding.
        attention_mask: (B, T), 1 at tokens and 0 at padding, in place of ``padding_mask``.
    """
    mask = to_padding_mask(padding_mask, attention_mask)

    def add_mask(_norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _with_mask(args, kwargs, mask)

    norms = filter(is_norm, model.modules())
    hooks = [norm.register_forward_pre_hook(add_mask, with_kwargs=True, prepend=True) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class MaskFromCall:
    """Takes the mask from the arguments of a module's forward and passes it to the norms inside the module.

    At evaluation only norms that see whole sentences get the mask. All other norms then treat each token alone, and a
    model that generates text calls them with only the newest token but a mask of the whole text.
    """

    def __init__(self, module: nn.Module, argument: str, norms: list[nn.Module]) -> None:
        self.argument = argument
        self.position = list(inspect.signature(module.forward).parameters).index(argument)
        self.norms = norms
        self.mask: Tensor | None = None  # of the call that is running
        self.running = False  # whether a call is running
        self.masked = False  # whether a call has had a mask
        module.register_forward_pre_hook(self.enter, with_kwargs=True)
        module.register_forward_hook(self.leave, always_call=True)
        for norm in norms:
            norm.register_forward_pre_hook(self.add_mask, with_kwargs=True)

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the mask from the arguments of the module's forward.

        Raises:
            RuntimeError: the module is a replica of ``nn.DataParallel``. All replicas share this object.
        """
        if getattr(module, "_is_replica", False):
            raise RuntimeError("norms get no padding mask in nn.DataParallel: use DistributedDataParallel")
        given = args[self.position] if len(args) > self.position else kwargs.get(self.argument)
        if not any(map(_reads_mask, self.norms)):  # the mask may then have another form, as with a static cache
            given = None
        if self.argument in ATTENTION_MASKS:
            given = to_padding_mask(None, given)
        elif isinstance(given, Tensor) and given.is_floating_point():  # PyTorch adds it to the scores of attention
            given = given < 0
        self.mask, self.running = given, True
        self.masked |= given is not None

    def leave(self, _module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        """Drop the mask after the module's forward, also after an error."""
        self.mask, self.running = None, False

    def add_mask(self, norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Add the mask to the arguments of a norm.

        Raises:
            RuntimeError: activation checkpointing calls the norm again after the module's forward, without a mask.
        """
        if not _reads_mask(norm) or _has_mask(args, kwargs):
            return None
        if self.masked and recomputing() and not self.running:
            raise RuntimeError(
                "activation checkpointing calls this norm again in the backward pass, without the "
                f"{self.argument} that the forward pass may have had: run forward and backward inside "
                "using_padding_mask(model, padding_mask)"
            )
        return _with_mask(args, kwargs, self.mask)


def _reads_mask(norm: nn.Module) -> bool:
    return norm.training or bool(getattr(norm, "sees_sentence", False))


def _has_mask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return len(args) > 1 or bool(kwargs.keys() & {"padding_mask", "attention_mask"})


def _with_mask(args: tuple[Any, ...], kwargs: dict[str, Any], mask: Tensor | None) -> Any:
    """Return the arguments with the mask added, or None if there is no mask or they already contain one."""
    if mask is None or _has_mask(args, kwargs):
        return None
    return args, {**kwargs, "padding_mask": mask}


def modules_with_mask(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (path, module, argument) for each outermost module whose forward takes exactly one mask.

    The arguments of a forward with two sequences, such as source and target or text and image, do not show which norm
    gets which sequence. The search then goes on in the modules inside.
    """
    arguments = inspect.signature(module.forward).parameters
    names = [name for name in arguments if name in PADDING_MASKS + ATTENTION_MASKS]
    if len(names) == 1 and names[0] != "decoder_attention_mask" and not {*arguments} & OTHER_INPUTS:
        yield path, module, names[0]
        return
    for name, child in module.named_children():
        yield from modules_with_mask(child, f"{path}.{name}" if path else name)
