"""Dropout on a CPU that draws its mask inside the kernel, alone or fused with a neighboring operation.

``torch.nn.functional.dropout`` draws a CPU's masks number by number on one core: 13 % of a translation model's training
step. Here a hash of an element's index and a seed decides whether the element is kept (dropout.c, compiled at setup).
This uses all cores and stores no mask; the backward pass computes the mask again. PyTorch's generator draws the seed of
each mask, so seeding, checkpoints and activation checkpointing work as usual; the masks differ from PyTorch's for the
same seed. An element is dropped with probability p rounded to a multiple of 1/65536, and the others are divided by the
exact probability of being kept, so the mean does not change.

On other devices, in float16 and in compiled models, these functions use PyTorch's operations.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from normplugins.norms.backends.cpu.library import SUFFIX, library, threads_for
from normplugins.norms.backends.dispatch import is_plain_tensor

LEVELS = 1 << 16
"""An element is dropped with a probability that is a multiple of 1 / LEVELS."""


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Apply dropout with probability p to x of any shape; return x itself if not training."""
    if not (training and p > 0):
        return x
    return _Dropout.apply(None, x, p) if has_kernel(x, p) else F.dropout(x, p)


def add_dropout(residual: Tensor, x: Tensor, p: float, training: bool) -> Tensor:
    """Return residual + dropout(x) for two tensors of the same shape."""
    alike = residual.shape == x.shape and residual.dtype == x.dtype
    if training and p > 0 and alike and has_kernel(x, p):
        return _Dropout.apply(residual, x, p)
    return residual + F.dropout(x, p, training)


def relu_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Return dropout(relu(x)); save only this output for the backward pass, which the next linear map saves anyway."""
    if training and p > 0 and has_kernel(x, p):
        return _ReluDropout.apply(x, p)
    return F.dropout(F.relu(x), p, training)


ACTIVATIONS: dict[str, Callable[[Tensor, float, bool], Tensor]] = {
    "relu": relu_dropout,
    "gelu": lambda x, p, training: dropout(F.gelu(x), p, training),
    "swish": lambda x, p, training: dropout(F.silu(x), p, training),
}
"""Name of an activation -> function of x, dropout probability and training that applies it and then dropout."""


def has_kernel(x: Tensor, p: float) -> bool:
    """Return whether :func:`run_kernel`, rather than PyTorch, computes dropout of x."""
    here = x.device.type == "cpu" and x.dtype in SUFFIX and is_plain_tensor(x) and 0 < _level(p) < LEVELS
    return here and not torch.compiler.is_compiling() and library("normplugins.models._dropout") is not None


def draw_seed() -> int:
    """Draw the seed of a mask from PyTorch's generator."""
    return int(torch.empty((), dtype=torch.int64).random_())


def run_kernel(x: Tensor, p: float, seed: int, residual: Tensor | None = None, relu: bool = False) -> Tensor:
    """Compute dropout(x) with the mask of this seed, or residual + dropout(x), or dropout(relu(x)); no gradient."""
    x, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    residual = residual if residual is None else residual.contiguous()
    numbers = (ctypes.c_int64(number) for number in (x.numel(), seed, _level(p), relu, threads_for(x)))
    tensors = (ctypes.c_void_p(None if each is None else each.data_ptr()) for each in (x, residual, y))
    getattr(library("normplugins.models._dropout"), f"dropout_{SUFFIX[x.dtype]}")(*tensors, *numbers)
    return y


def _level(p: float) -> int:
    """Return how many of the ``LEVELS`` equally probable 16-bit numbers drop an element."""
    return round(p * LEVELS)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residual: Tensor | None, x: Tensor, p: float) -> Tensor:
        ctx.p, ctx.seed, ctx.added = p, draw_seed(), residual is not None
        return run_kernel(x, p, ctx.seed, residual)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient if ctx.added else None, run_kernel(gradient, ctx.p, ctx.seed), None


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        y = run_kernel(x, p, draw_seed(), relu=True)
        ctx.save_for_backward(y)
        ctx.scale = LEVELS / (LEVELS - _level(p))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, y, 0).mul_(ctx.scale), None
