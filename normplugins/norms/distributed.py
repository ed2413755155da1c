"""Differentiable sums over the processes of a training run, in the default process group of ``torch.distributed``.

Each process has its own loss, and the sum of all losses is minimized. A statistic over all processes' tokens therefore
passes the gradients of *every* loss to the tokens of each process: the backward of a sum over processes sums the
gradients over processes. Every process must make the same calls in the same order, with or without tokens.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def process_count() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _Sum.forward(ctx, g)


def sum_over_processes(x: Tensor) -> Tensor:
    """Return the sum of all processes' x: one all-reduce here, and one of the gradient in the backward pass."""
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total
