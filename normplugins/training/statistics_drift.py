"""Running statistics in several processes: how far they have drifted apart, whose are evaluated, and saving them all.

With ``norm.sync=none`` each process keeps statistics of its own batches. Those of the first are the model's: they are
evaluated and saved in its state. The others' are kept beside it in a checkpoint, so that a resumed run goes on with
each process's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from normplugins.norms import running_statistics


@dataclass(frozen=True)
class Drift:
    """How far the statistics of ``processes`` processes differ from the first's.

    The distance of a buffer is ||its values - the first's|| / ||the first's||, over channels. Where the first's norm is
    smaller than the mean norm of the model's buffers of that name, that mean takes its place: what is near zero has not
    drifted far. ``means`` are by the buffers' own name, over norms and the other processes (PN's ``ema_gz``, which the
    backward alone reads, drifts far more than psi^2); ``most``, the largest of all, is that of buffer ``where``.
    """

    processes: int
    means: dict[str, float]
    most: float
    where: str

    def __str__(self) -> str:
        if not self.most:
            return f"statistics of {self.processes} processes are the same"
        means = " and ".join(f"{mean:.1%} in {kind}" for kind, mean in self.means.items())
        return (
            f"statistics of {self.processes} processes differ from the first's by {means} (means over norms), "
            f"most in {self.where}: {self.most:.1%}"
        )

    @property
    def figures(self) -> dict[str, float]:
        """For the curves."""
        return {f"drift_{kind}": mean for kind, mean in self.means.items()} | {"most_drift": self.most}


def state(model: nn.Module) -> dict[str, Tensor]:
    """Every buffer, counts too, of the modules that have running statistics: full name -> live tensor."""
    owners = dict.fromkeys(name.rpartition(".")[0] for name in running_statistics(model))
    return {
        f"{owner}.{name}": buffer
        for owner in owners
        for name, buffer in model.get_submodule(owner).named_buffers(recurse=False)
    }


def gather(model: nn.Module) -> list[dict[str, Tensor]]:
    """Each process's :func:`state`, copied, in the order of their ranks; every process must call it.

    Empty for one process, and for a model without statistics.
    """
    own = state(model)
    if not own or not distributed.is_initialized():
        return []
    flat = torch.cat([buffer.detach().double().view(-1) for buffer in own.values()])  # holds float32 and counts exactly
    flats = [torch.empty_like(flat) for _ in range(distributed.get_world_size())]
    distributed.all_gather(flats, flat)
    sizes = [buffer.numel() for buffer in own.values()]
    return [
        {
            name: part.view_as(buffer).to(buffer.dtype)
            for (name, buffer), part in zip(own.items(), flat.split(sizes), strict=True)
        }
        for flat in flats
    ]


def measure(model: nn.Module, states: list[dict[str, Tensor]]) -> Drift | None:
    """The drift between what :func:`gather` returned; None when that was nothing."""
    if not states:
        return None
    names = list(running_statistics(model))
    first, *others = ([each[name].double().view(-1) for name in names] for each in states)
    norms = torch.stack([values.norm() for values in first])
    kinds = [name.rpartition(".")[2] for name in names]
    alike = {kind: [kind == other for other in kinds] for kind in dict.fromkeys(kinds)}
    usual = torch.stack([norms[alike[kind]].mean() for kind in kinds])
    apart = torch.stack([torch.stack([(a - b).norm() for a, b in zip(other, first, strict=True)]) for other in others])
    relative = torch.where(apart > 0, apart / torch.maximum(norms, usual), 0)  # nothing apart from nothing: 0
    most = relative.amax(0)
    means = {kind: float(relative[:, same].mean()) for kind, same in alike.items()}
    return Drift(len(states), means, float(most.max()), names[int(most.argmax())])


@torch.no_grad()
def load_state(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy a :func:`state` into the model."""
    for name, buffer in state(model).items():
        buffer.copy_(values[name])


@contextmanager
def rank_zero_statistics(model: nn.Module, states: list[dict[str, Tensor]]) -> Iterator[None]:
    """Give the model rank zero's statistics, which are saved, for the duration of the block."""
    if not states:
        yield
        return
    load_state(model, states[0])
    try:
        yield
    finally:
        load_state(model, states[distributed.get_rank()])
