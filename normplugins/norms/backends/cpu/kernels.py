"""Calls the compiled kernels of kernels.c: one pass of a norm over rows, on PyTorch's threads."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from normplugins.norms.backends.cpu.library import SUFFIX, library, threads_for

WIDEST = 8192
"""The most channels of a row, because a thread holds the sums of some rows on its stack."""


def _structure(tensors: str, numbers: str) -> type[ctypes.Structure]:
    fields: list[tuple[str, type]] = [(name, ctypes.c_void_p) for name in tensors.split()]
    fields += [(name, ctypes.c_double if name == "eps" else ctypes.c_int64) for name in numbers.split()]
    return type("Pass", (ctypes.Structure,), {"_fields_": fields})


# The structures of passes.h, which documents each field.
_Forward = _structure(
    "x padding centre scale bias y inverse sums squares padding_squares",
    "eps rows channels groups padding_as_tokens threads",
)
_Backward = _structure(
    "g x padding centre inverse of_g of_z constant dx products sums", "rows channels groups padding_as_tokens threads"
)


def compiled() -> ctypes.CDLL | None:
    """Return the kernels, or None if setup has not compiled them."""
    return library("normplugins.norms.backends.cpu._kernels")


def forward(
    x: Tensor,
    y: Tensor | None,
    padding: Tensor | None,
    gather: Sequence[str] = (),
    *,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    centre: Tensor | None = None,
    inverse: Tensor | None = None,
    eps: float = 0.0,
    padding_as_tokens: bool = False,
) -> Tensor:
    """Write y = scale z + bias in one pass over contiguous x (N, C), and return sums over rows, (k, C).

    Args:
        x: float32 or float64, the dtype of every tensor except ``padding``.
        y: (N, C), or None to compute sums only.
        padding: (N,) bool, True = padding, which is not counted and has y = 0; None: no padding.
        gather: the k sums to compute: "squares" of z^2 over tokens, "padding_squares" over padding, and, without y,
            "sums" of z over tokens.
        scale: (C,), for y.
        bias: (C,).
        centre: (C,): z = x - centre.
        inverse: (N, groups), output r = 1 / sqrt(mean of a channel group's x^2 + eps), with z = r x.
        eps: added to that mean.
        padding_as_tokens: compute y of padding as of a token.
    """
    tensors = {"y": y, "scale": scale, "bias": bias, "centre": centre, "inverse": inverse}
    return _run(_Forward, "forward", x, padding, gather, tensors, padding_as_tokens, eps=eps)


def backward(
    g: Tensor,
    x: Tensor,
    dx: Tensor | None,
    padding: Tensor | None,
    gather: Sequence[str] = (),
    *,
    of_g: Tensor | None = None,
    of_z: Tensor | None = None,
    constant: Tensor | None = None,
    centre: Tensor | None = None,
    inverse: Tensor | None = None,
    padding_as_tokens: bool = False,
) -> Tensor:
    """Write dx = dL/dx in one pass over contiguous g = dL/dy and x (N, C), and return sums over rows, (k, C).

    dL/dz = of_g g + of_z z + constant, each (C,). ``centre`` and ``inverse`` come from the forward. dL/dx is
    r (dL/dz - z mean(z dL/dz)) with means over channel groups. ``gather``: "products" g z and "sums" g, over tokens;
    over padding too with ``padding_as_tokens``. With ``dx`` None only sums are computed.
    """
    tensors = {"g": g, "dx": dx, "of_g": of_g, "of_z": of_z, "constant": constant, "centre": centre, "inverse": inverse}
    return _run(_Backward, "backward", x, padding, gather, tensors, padding_as_tokens)


def _run(
    structure: type[ctypes.Structure],
    kernel: str,
    x: Tensor,
    padding: Tensor | None,
    gather: Sequence[str],
    tensors: dict[str, Tensor | None],
    padding_as_tokens: bool,
    **numbers: float,
) -> Tensor:
    inverse = tensors["inverse"]
    sums = x.new_empty(len(gather), x.size(1))
    tensors |= {"x": x, "padding": padding, **dict(zip(gather, sums.unbind(), strict=True))}
    kernels, given = compiled(), {name: tensor for name, tensor in tensors.items() if tensor is not None}
    assert kernels is not None
    # C would misread any other layout
    assert all(each.is_contiguous() and each.dtype in (x.dtype, torch.bool) for each in given.values())
    arguments = structure(
        **{name: tensor.data_ptr() for name, tensor in given.items()},
        rows=x.size(0), channels=x.size(1), groups=0 if inverse is None else inverse.size(1),
        padding_as_tokens=padding_as_tokens, threads=threads_for(x), **numbers,
    )  # fmt: skip
    getattr(kernels, f"{kernel}_{SUFFIX[x.dtype]}")(ctypes.byref(arguments))
    return sums
