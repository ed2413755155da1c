"""Dropout with masks that are quick to draw on a CPU, alone or together with the operation beside it.

``torch.nn.functional.dropout`` draws a CPU's masks number by number on one core: 13 % of a translation model's training
step. Here one 64-bit number makes four decisions of 16 bits, and a mask is kept as bytes. The numbers are those of
NumPy's SFC64, twice as fast as PyTorch's own, from a seed that PyTorch's generator draws for each mask: masks are
seeded, saved in checkpoints and drawn again under activation checkpointing as PyTorch's are. They are other masks of
the same seed. An element is dropped with probability p rounded to 1/65536, and the survivors are scaled by the inverse
of exactly that, so that the mean stays what it was.

On other devices, and where the model is compiled, these functions are PyTorch's own operations.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LEVELS = 1 << 16
"""Probabilities are multiples of 1 / LEVELS."""


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each element of x, of any shape, with probability p and divide the others by 1 - p; x if not training."""
    if not (training and p > 0):
        return x
    return _Dropout.apply(x, p) if drawn_here(x, p) else F.dropout(x, p)


def add_dropout(residual: Tensor, x: Tensor, p: float, training: bool) -> Tensor:
    """residual + dropout(x), for two tensors of one shape."""
    if training and p > 0 and drawn_here(x, p):
        return _AddDropout.apply(residual, x, p)
    return residual + F.dropout(x, p, training)


def relu_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """dropout(relu(x)); what it keeps for the backward pass is its output, which a linear map after it keeps too."""
    if training and p > 0 and drawn_here(x, p):
        return _ReluDropout.apply(x, p)
    return F.dropout(F.relu(x), p, training)


def drawn_here(x: Tensor, p: float) -> bool:
    """Whether masks for x come from :func:`draw_kept`."""
    return x.device.type == "cpu" and 0 < _dropped(p) < LEVELS and not torch.compiler.is_compiling()


def _dropped(p: float) -> int:
    """How many of the ``LEVELS`` equally probable 16-bit numbers drop an element."""
    return round(p * LEVELS)


def kept_scale(p: float) -> float:
    """What an element that is kept is multiplied by."""
    return LEVELS / (LEVELS - _dropped(p))


def draw_kept(x: Tensor, p: float) -> Tensor:
    """Draw a mask of x's shape on the CPU: bytes, 1 where an element is kept, 0 with probability p."""
    seed = int(torch.empty((), dtype=torch.int64).random_())
    generator = np.random.Generator(np.random.SFC64(seed))
    numbers = generator.integers(-(2**63), 2**63 - 1, -(-x.numel() // 4), np.int64, endpoint=True)
    # 16-bit integers are signed: the smallest, -LEVELS / 2, is the first to be dropped
    kept = torch.from_numpy(numbers.view(np.int16))[: x.numel()].ge(_dropped(p) - LEVELS // 2)
    return kept.view(torch.uint8).view(x.shape)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        kept = draw_kept(x, p)
        ctx.save_for_backward(kept)
        ctx.scale = kept_scale(p)
        return (x * kept).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (gradient * kept).mul_(ctx.scale), None


class _AddDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, p: float) -> Tensor:
        kept = draw_kept(x, p)
        ctx.save_for_backward(kept)
        ctx.scale = kept_scale(p)
        return torch.add(residual, x * kept, alpha=ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (kept,) = ctx.saved_tensors
        return gradient, (gradient * kept).mul_(ctx.scale), None


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.scale = kept_scale(p)
        y = x.clamp(min=0).mul_(draw_kept(x, p)).mul_(ctx.scale)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, y, 0).mul_(ctx.scale), None
