"""Selects the code that computes a norm: the plain code in the norm's own file, or a fast forward of a backend.

The setting ``kernels`` of a norm selects:

``auto``    the compiled kernels of cpu/ in training on a CPU, the kernels of triton/ on a GPU, and otherwise the plain
            code; also the plain code if the kernels are not installed or are older than their source
``plain``   the plain code, which is the reference
``triton``  the kernels of triton/; on a CPU they run in Triton's interpreter, for tests
"""

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from normplugins.norms.backends.cpu.kernels import WIDEST, compiled


class Dispatched(nn.Module):
    """Base class of norms with fast code, which ``FORWARDS`` in cpu/forwards.py and triton/forwards.py lists."""

    kernels: str

    @property
    def has_fast_code(self) -> bool:
        """Whether the settings of this norm allow its fast code."""
        return True

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Normalize x with the code that the setting ``kernels`` selects; raises as :func:`backend_for` does."""
        backend = backend_for(self.kernels, x, self.training)
        if backend and self.has_fast_code:
            forwards: dict[type, Callable[..., Tensor]] = import_module(f"{__package__}.{backend}.forwards").FORWARDS
            if fast := forwards.get(type(self)):
                return fast(self, x, padding_mask)
        return self.plain(x, padding_mask)

    def plain(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Compute ``forward`` with PyTorch operations; the reference of the fast code."""
        raise NotImplementedError


def backend_for(kernels: str, x: Tensor, training: bool) -> str | None:
    """Return ``cpu`` or ``triton``, or None for the plain code.

    The plain code runs while a compiler traces, because the compiler fuses the operations itself; for subclasses of
    Tensor such as DTensor, whose memory kernels cannot read; and inside transforms of ``torch.func``. On a CPU it also
    handles a batch without tokens. On a GPU the kernels must handle it too: with ``sync=batch`` their backward
    communicates differently from the plain code, and all processes must communicate alike.

    Raises:
        ValueError: ``kernels=triton``, and Triton is not installed or x is not on a GPU.
    """
    if kernels == "plain" or torch.compiler.is_compiling() or not is_plain_tensor(x):
        return None
    if kernels == "auto" and x.device.type == "cpu" and training and x.numel():
        return "cpu" if x.size(-1) <= WIDEST and compiled() else None
    if kernels == "triton":
        if reason := why_not_triton(x.is_cuda):
            raise ValueError(reason)
        return "triton"
    return "triton" if x.is_cuda and _has_triton() else None


def why_not_triton(on_gpu: bool) -> str | None:
    """Return why ``kernels=triton`` cannot work with tensors on this device and what to do, or None if it works."""
    if not _has_triton():
        return "kernels=triton: Triton is not installed; install it, or set kernels=auto"
    if not on_gpu and os.environ.get("TRITON_INTERPRET", "0") in ("", "0"):
        return "kernels=triton needs a GPU; set kernels=auto, or TRITON_INTERPRET=1 to test"
    return None


def is_plain_tensor(x: Tensor) -> bool:
    """Whether x is a Tensor or a Parameter, no instance of another subclass, and not inside a transform of torch.func.

    Autograd functions of kernels support neither ``torch.func.grad`` nor ``vmap``.
    """
    return type(x) in (Tensor, nn.Parameter) and not torch._C._are_functorch_transforms_active()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
