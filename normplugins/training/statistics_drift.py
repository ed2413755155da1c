"""Running statistics of several processes: how far they have drifted apart, and which are evaluated and saved.

With ``norm.sync=none`` each process has running statistics of its own batches. The statistics of rank zero are part of
the saved model and are evaluated. Checkpoints contain the statistics of all ranks, so that each rank resumes with its
own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

from normplugins.norms import running_statistics
from normplugins.training.distributed import all_gather


def state(model: nn.Module) -> dict[str, Tensor]:
    """Return all buffers of the modules with running statistics, including update counts, by name and not copied."""
    owners = {name.rpartition(".")[0] for name in running_statistics(model)}
    return {name: buffer for name, buffer in model.named_buffers() if name.rpartition(".")[0] in owners}


def gather(model: nn.Module) -> list[dict[str, Tensor]]:
    """Return copies on the CPU of every rank's :func:`state`, in order; every rank must call it.

    The list is empty in a run of one process, and for a model without running statistics.
    """
    own = {name: buffer.cpu() for name, buffer in state(model).items()}
    return all_gather(own) if own and distributed.is_initialized() else []


def measure(model: nn.Module, states: list[dict[str, Tensor]]) -> tuple[dict[str, float], str]:
    """Measure how far the statistics that :func:`gather` returned differ from rank zero's.

    The distance of a buffer is ||its values - rank zero's|| / ||rank zero's||, over channels. If the divisor is below
    its mean over the buffers of the same kind (such as ``running_mean``), that mean replaces it, because a relative
    distance from values near zero is meaningless.

    Returns:
        The mean distance of each kind and the largest distance, for the curves, and a line that describes them; both
        are empty without ``states``.
    """
    if not states:
        return {}, ""
    kinds: dict[str, list[str]] = {}
    for name in running_statistics(model):
        kinds.setdefault(name.rpartition(".")[2], []).append(name)
    first, *others = states
    means, largest = {}, (0.0, "")
    for kind, names in kinds.items():
        norms = {name: float(first[name].double().norm()) for name in names}
        usual = sum(norms.values()) / len(norms)
        apart = {
            name: [float((other[name].double() - first[name].double()).norm()) for other in others] for name in names
        }
        distances = [(d and d / (max(norms[name], usual) or 1), name) for name, found in apart.items() for d in found]
        means[kind] = sum(distance for distance, _ in distances) / len(distances)
        largest = max(largest, *distances)
    figures = {f"drift_{kind}": mean for kind, mean in means.items()} | {"most_drift": largest[0]}
    if not largest[0]:
        return figures, f"statistics of {len(states)} processes are the same"
    differences = " and ".join(f"{mean:.1%} in {kind}" for kind, mean in means.items())
    return figures, (
        f"statistics of {len(states)} processes differ from the first's by {differences} (means over norms), "
        f"most in {largest[1]}: {largest[0]:.1%}"
    )


@torch.no_grad()
def load_state(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy a :func:`state` into the model."""
    for name, buffer in state(model).items():
        buffer.copy_(values[name])


@contextmanager
def rank_zero_statistics(model: nn.Module, states: list[dict[str, Tensor]]) -> Iterator[None]:
    """Give the model the statistics of rank zero inside this context."""
    if states:
        load_state(model, states[0])
    try:
        yield
    finally:
        if states:
            load_state(model, states[distributed.get_rank()])
