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


def gather_over_processes(x: Tensor) -> Tensor:
    """Gather x (K,) of all W processes as a tensor (W, K). Only this process's row has a gradient, which flows to x.

    Every process must pass what it computes from the rows through :func:`sum_gradients`, so that its own row receives
    the gradients of all losses.
    """
    rows = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, x.detach())
    rows[dist.get_rank()] = x
    return torch.stack(rows)


def sum_gradients(x: Tensor) -> Tensor:
    """Return x, which must be equal on all processes; one all-reduce sums its gradient over them in the backward."""
    if x.requires_grad:
        x.register_hook(sum_over_processes)  # type: ignore[no-untyped-call]
    return x
