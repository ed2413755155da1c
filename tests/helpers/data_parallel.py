"""Training on batches that are cut into parts, for several processes or one after another, and on the whole batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from normplugins.norms import NormConfig, build_norm, end_update
from tests.helpers.norms import buffers, random_affine

DIM = 6
# Sentence lengths in each of two processes. T is the longest length, or 3 if all positions are padding.
CUTS = {
    "halves": ([4, 2, 3], [1, 4, 2]),
    "uneven": ([5, 2, 4, 1], [2]),
    "one has no padding": ([3, 3], [2, 4]),
    "one is all padding": ([3, 1], [0, 0]),
    "one is empty": ([], [4, 3]),
    "one token in all": ([1], []),
    "none has a token": ([], [0]),
}


@dataclass
class Part:
    """A batch: x and dL/dy (T, B, C), padding (B, T) or None; or flat, (N, C) and (N,)."""

    x: Tensor
    g: Tensor
    mask: Tensor | None


def part(lengths: list[int], generator: torch.Generator) -> Part:
    """Random tokens with a nonzero mean; padding holds junk with a nonzero dL/dy."""
    shape = (max(lengths, default=0) or 3, len(lengths), DIM)
    x, g = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.arange(shape[0]) >= torch.tensor(lengths, dtype=torch.int64).unsqueeze(1)
    return Part(2 * x + 1, g, mask if mask.any() else None)


def cut(step: int) -> list[Part]:
    """The parts of two processes in this step; the steps cycle through all cuts."""
    generator = torch.Generator().manual_seed(step)
    return [part(lengths, generator) for lengths in list(CUTS.values())[step % len(CUTS)]]


def joined(parts: list[Part]) -> Part:
    """The same positions, padding included, as one flat batch."""
    masks = [torch.zeros(p.x.shape[1::-1], dtype=torch.bool) if p.mask is None else p.mask for p in parts]
    return Part(
        torch.cat([p.x.flatten(0, 1) for p in parts]),
        torch.cat([p.g.flatten(0, 1) for p in parts]),
        torch.cat([mask.t().flatten() for mask in masks]),
    )


class Block(nn.Module):
    """Two norms with a linear map between them, so the input of the second norm depends on the first."""

    def __init__(self, config: NormConfig) -> None:
        super().__init__()
        self.first, self.linear, self.second = build_norm(config, DIM), nn.Linear(DIM, DIM), build_norm(config, DIM)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x + self.second(torch.relu(self.linear(self.first(x, mask))), mask)


@dataclass
class Update:
    y: list[Tensor]
    gx: list[Tensor]
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]
    sent: int
    """how many all-reduces there were"""


def train(config: NormConfig, updates: list[list[Part]], recompute: bool = False) -> list[Update]:
    """SGD on the sum of the losses of all processes; each update accumulates a list of micro-batches."""
    model = random_affine(Block(config).double())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return [_update(model, optimizer, micro_batches, recompute) for micro_batches in updates]


def _update(model: nn.Module, optimizer: Any, micro_batches: list[Part], recompute: bool) -> Update:
    optimizer.zero_grad()
    ys, xs = [], []
    with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as spy:
        for batch in micro_batches:
            x = batch.x.clone().requires_grad_()
            y = checkpoint(model, x, batch.mask, use_reentrant=False) if recompute else model(x, batch.mask)
            y.backward(batch.g)
            ys.append(y.detach())
            xs.append(x.grad)
        end_update(model)
    for p in model.parameters():
        if dist.is_initialized():
            dist.all_reduce(p.grad)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizer.step()
    return Update(ys, xs, gradients, buffers(model), spy.call_count)


def train_mine(config: NormConfig, updates: list[list[list[Part]]], recompute: bool = False) -> list[Update]:
    """Train on this process's part of each micro-batch of each update."""
    return train(config, [[parts[dist.get_rank()] for parts in update] for update in updates], recompute)


def steps(micro_batches: int = 1) -> list[list[list[Part]]]:
    """Updates, each a list of micro-batches, each with the parts of both processes."""
    return [[cut(u * micro_batches + m) for m in range(micro_batches)] for u in range(len(CUTS))]


def whole(updates: list[list[list[Part]]]) -> list[list[Part]]:
    return [[joined(parts) for parts in update] for update in updates]


def assert_same(parts: list[list[Update]], wanted: list[Update]) -> None:
    """The concatenated outputs and gradients of both processes equal those of one; the two agree bitwise."""
    names = list(CUTS)
    for u, (one, other, want) in enumerate(zip(*parts, wanted, strict=True)):
        micro_batches = len(want.y)
        where = f"update {u} ({', '.join(names[(u * micro_batches + m) % len(names)] for m in range(micro_batches))})"
        for what in ("y", "gx"):
            both = zip(getattr(one, what), getattr(other, what), strict=True)
            got = [torch.cat([part.flatten(0, 1) for part in pair]) for pair in both]
            close(got, getattr(want, what), f"{where}: {what}")
        for what in ("gradients", "buffers"):
            close(getattr(one, what), getattr(other, what), f"{where}: {what} of the two", 0)
            close(getattr(one, what), getattr(want, what), f"{where}: {what}")


def close(got, want, where: str, tolerance: float = 1e-9) -> None:
    assert_close(got, want, rtol=0, atol=tolerance, msg=lambda said: f"{where}: {said}")
