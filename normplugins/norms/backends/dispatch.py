"""Which code computes a norm: the plain equations in its own file, or operators in fewer passes over memory.

``kernels`` of ``NormConfig`` chooses:

``auto``    the kernels of cpu/ in training on a CPU, where they were compiled, and on a GPU those of triton/, where
            Triton is installed; else the plain code
``plain``   the plain code, which is the reference
``triton``  the kernels of triton/; on a CPU by Triton's interpreter, which only tests want
"""

import os
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor, nn

from normplugins.norms.backends.cpu.kernels import WIDEST, compiled
from normplugins.norms.deferred_residual import DeferredResidual

KERNELS = ("auto", "plain", "triton")


def fast_path(kernels: str, x: Tensor | DeferredResidual, training: bool) -> ModuleType | None:
    """The module whose functions take over a norm's forward for this x, or None for the plain code.

    What a compiler is tracing is plain: it puts the passes together itself. So is, on a CPU, a batch without tokens; on
    a GPU it must not be: with ``sync=batch`` the kernels' backward does not send what the plain code's does.
    Raises ValueError where ``triton`` is asked for and cannot be had.
    """
    if kernels == "plain" or torch.compiler.is_compiling():
        return None
    tensor = x.residual if isinstance(x, DeferredResidual) else x
    if kernels == "auto" and tensor.device.type == "cpu" and training and tensor.numel():
        return _cpu() if tensor is x and tensor.size(-1) <= WIDEST else None
    if kernels == "triton" or (tensor.is_cuda and _has_triton()):
        return _triton(tensor)
    return None


def fuses_residual(norm: nn.Module, x: Tensor) -> bool:
    """Whether ``norm``, in training, adds up a ``DeferredResidual`` like x within its own pass."""
    if not (norm.training and getattr(norm, "accepts_deferred", False)):
        return False
    return hasattr(fast_path(str(norm.kernels), x, training=True), "FUSES_RESIDUAL")


def _cpu() -> ModuleType | None:
    from normplugins.norms.backends.cpu import forwards

    return forwards if compiled() else None


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _triton(x: Tensor) -> ModuleType:
    if not _has_triton():
        raise ValueError("kernels=triton: Triton is not installed; install it, or set kernels=auto")
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET", "0") in ("", "0"):
        raise ValueError(
            f"kernels=triton needs x on a GPU, not on {x.device}; set kernels=auto, or TRITON_INTERPRET=1 to test"
        )
    from normplugins.norms.backends.triton import forwards

    return forwards
