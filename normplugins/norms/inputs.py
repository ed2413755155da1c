"""How norms are called: layouts of x, padding and attention masks, and norms inside PyTorch's own encoder."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[..., Tensor]


def accept_masks(norm_class: Any) -> None:
    """Extend a norm class's ``forward(self, x, padding_mask=None)`` to all inputs that :func:`build_norm` documents.

    The new ``forward`` also takes ``attention_mask``, refuses masks of a wrong dtype or shape, and takes x (B, T, C)
    if the norm's ``batch_first`` is true. The checks read only dtypes and shapes, so the host never waits for a GPU.
    """
    forward: Forward = norm_class.forward
    if getattr(forward, "accepts_masks", False):
        return

    def accepting(
        norm: Any, x: Tensor, padding_mask: Tensor | None = None, *, attention_mask: Tensor | None = None
    ) -> Tensor:
        outermost = type(norm).forward
        if outermost is not accepting and getattr(outermost, "accepts_masks", False):
            return forward(norm, x, padding_mask)  # called by a registered subclass, which has checked the masks
        padding_mask = to_padding_mask(padding_mask, attention_mask)
        if x.is_nested:
            return _each_sentence(forward, norm, x, padding_mask)
        if padding_mask is not None:
            _check_mask(norm, x.shape, padding_mask)
        if norm.batch_first:
            return _batch_first(forward, norm, x, padding_mask)
        return forward(norm, x, padding_mask)

    update_wrapper(accepting, forward, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    del accepting.__wrapped__  # type: ignore[attr-defined]  # its signature differs from ``forward``'s
    accepting.accepts_masks = True  # type: ignore[attr-defined]
    norm_class.forward, norm_class.batch_first = accepting, False


def to_padding_mask(padding_mask: Tensor | None, attention_mask: Any) -> Tensor | None:
    """Return ``padding_mask``, True at padding, or convert ``attention_mask``, 0 at padding, to a padding mask.

    Raises:
        ValueError: both masks are given.
        TypeError: the attention mask is not a tensor of integers or booleans.
    """
    if attention_mask is None:
        return padding_mask
    if padding_mask is not None:
        raise ValueError("padding_mask and attention_mask are both given; pass one of them")
    if not isinstance(attention_mask, Tensor) or attention_mask.is_floating_point():
        got = attention_mask.dtype if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise TypeError(f"attention_mask must be integers or booleans, 1 at tokens and 0 at padding, not {got}")
    return attention_mask == 0


def _check_mask(norm: Any, shape: torch.Size, mask: Tensor) -> None:
    """Raise TypeError unless the mask is boolean, and ValueError unless its shape fits x."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"padding_mask must be a tensor, not {type(mask).__name__}")
    if mask.dtype != torch.bool:
        hint = (
            "pass mask < 0 for a mask that is added to scores"
            if mask.is_floating_point()
            else "pass a mask that is 1 at tokens as attention_mask"
        )
        raise TypeError(f"padding_mask must be torch.bool, True at padding, not {mask.dtype}; {hint}")
    tokens = shape[:-1] if norm.batch_first else shape[-2::-1]
    if len(tokens) > 2:
        raise ValueError(
            f"a norm takes a mask only with x (T, B, C), (B, T, C) or (N, C), not with x {tuple(shape)}; "
            "in swap_norms, leave out the norms of attention heads, such as q_norm, with only"
        )
    if norm.batch_first is None and len(tokens) == 2:
        raise ValueError("the layout of x, (B, T, C) or (T, B, C), is not known; pass batch_first to swap_norms")
    if mask.shape != tokens:
        layout = "(B, T, C), as batch_first is True" if norm.batch_first else "(T, B, C), as batch_first is False"
        raise ValueError(
            f"padding mask {tuple(mask.shape)} does not fit x {tuple(shape)}: "
            f"a mask (B, T) goes with x {layout}, a mask (N,) with x (N, C)"
        )


def _batch_first(forward: Forward, norm: Any, x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Normalize x (B, T, C), with padding_mask (B, T).

    Norms that see whole sentences get x as (T, B, C). All other norms get flat rows.
    """
    if x.dim() != 3:
        return forward(norm, x, padding_mask)
    if getattr(norm, "sees_sentence", False):
        return forward(norm, x.transpose(0, 1), padding_mask).transpose(0, 1).contiguous()
    y = forward(norm, x.flatten(0, 1), None if padding_mask is None else padding_mask.flatten())
    return y.view(x.shape)


def _each_sentence(forward: Forward, norm: Any, x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Normalize a nested tensor, to which ``nn.TransformerEncoder`` may convert padded sentences at evaluation."""
    if padding_mask is not None:
        raise ValueError("a nested tensor has no padding, so a norm takes no mask with it")
    if norm.training:
        raise ValueError("a norm takes nested tensors at evaluation only; train with padded sentences and a mask")
    sentences = [forward(norm, sentence.unsqueeze(1), None).squeeze(1) for sentence in x.unbind()]
    if x.layout == torch.jagged:  # with the offsets of x, so that the result can be added to x
        return torch.nested.nested_tensor_from_jagged(torch.cat(sentences), x.offsets())  # type: ignore[attr-defined]
    return torch.nested.as_nested_tensor(sentences, layout=x.layout)


def prevent_fusion(norm: nn.Module) -> None:
    """Keep ``nn.TransformerEncoderLayer`` from computing LayerNorm in place of this norm.

    At evaluation that layer reads the weight, bias and eps of its norms and runs as one fused call, without calling the
    norms. It does not fuse if any module inside it has a forward hook, so the norm gets a hook that does nothing. The
    layer reads some of these attributes before it looks for hooks, so attributes that the norm lacks are set to None.
    """
    for name in ("eps", "weight", "bias"):
        if not hasattr(norm, name):
            setattr(norm, name, None)
    norm.register_forward_pre_hook(_do_nothing)


def _do_nothing(norm: nn.Module, args: tuple[Any, ...]) -> None:
    """See :func:`prevent_fusion`."""
