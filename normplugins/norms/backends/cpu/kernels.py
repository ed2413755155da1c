"""Calls the compiled kernels of kernels.c: one pass of a norm over rows, on PyTorch's threads."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from normplugins.norms.backends.cpu.library import SUFFIX, library, threads_for

WIDEST = 8192
"""The largest supported number of channels: each thread holds sums over a chunk of rows on its stack."""


def _structure(tensors: str, numbers: str) -> type[ctypes.Structure]:
    fields: list[tuple[str, type]] = [(name, ctypes.c_void_p) for name in tensors.split()]
    fields += [(name, ctypes.c_double if name == "eps" else ctypes.c_int64) for name in numbers.split()]
    return type("Pass", (ctypes.Structure,), {"_fields_": fields})


# The structures of passes.h, which documents each field.
_STRUCTURES = {
    "forward": _structure(
        "x padding centre scale bias y inverse sums squares padding_squares",
        "eps rows channels groups padding_as_tokens threads",
    ),
    "backward": _structure(
        "g x padding centre inverse of_g of_z constant dx products sums",
        "rows channels groups padding_as_tokens threads",
    ),
}


def compiled() -> ctypes.CDLL | None:
    """Return the kernels, or None if setup has not compiled them from their current source."""
    return library("normplugins.norms.backends.cpu._kernels")


def run_pass(
    kernel: str,
    x: Tensor,
    padding: Tensor | None,
    gather: Sequence[str] = (),
    *,
    padding_as_tokens: bool = False,
    eps: float | None = None,
    **tensors: Tensor | None,
) -> Tensor:
    """Make one pass over contiguous x (N, C) and return the sums over rows that ``gather`` names, (k, C).

    ``forward`` writes y = scale z + bias, where z is x - centre or r x, with r = 1 / sqrt(mean of a channel group's
    x^2 + eps). It writes r to ``inverse``. ``backward`` reads g = dL/dy and writes dx = r (dL/dz - z mean(z dL/dz))
    with means over channel groups and dL/dz = of_g g + of_z z + constant.

    Args:
        kernel: ``forward`` or ``backward``.
        x: float32 or float64, the dtype of every tensor except ``padding``.
        padding: (N,) bool, True = padding, which is not counted and has y = 0 and dx = 0; None: no padding.
        gather: names of the sums over tokens to compute. In a forward: "squares" of z^2, "padding_squares" of z^2 over
            padding and, only without y, "sums" of z. In a backward: "products" of g z and "sums" of g.
        padding_as_tokens: normalize padding like tokens; the forward's sums still exclude it.
        eps: added under the root in r.
        tensors: y, g and dx (N, C), inverse (N, groups), the others (C,). Without y or dx only sums are computed.
    """
    inverse = tensors.get("inverse")
    sums = x.new_empty(len(gather), x.size(1))
    tensors |= {"x": x, "padding": padding, **dict(zip(gather, sums.unbind(), strict=True))}
    kernels, given = compiled(), {name: tensor for name, tensor in tensors.items() if tensor is not None}
    assert kernels is not None
    # C would misread any other layout
    assert all(each.is_contiguous() and each.dtype in (x.dtype, torch.bool) for each in given.values())
    arguments = _STRUCTURES[kernel](
        **{name: tensor.data_ptr() for name, tensor in given.items()}, **({} if eps is None else {"eps": eps}),
        rows=x.size(0), channels=x.size(1), groups=0 if inverse is None else inverse.size(1),
        padding_as_tokens=padding_as_tokens, threads=threads_for(x),
    )  # fmt: skip
    getattr(kernels, f"{kernel}_{SUFFIX[x.dtype]}")(ctypes.byref(arguments))
    return sums
