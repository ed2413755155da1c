"""The number of batches in an update: the recipe's number for all processes together, and the share of each process."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from normplugins.utils.errors import UserError


def share_batches(config: DictConfig, overrides: Sequence[str]) -> None:
    """Set ``optimization.update_freq`` to each process's share of ``train.batches_per_update``, unless that is null.

    An update then has the same number of tokens on one GPU and on a hundred: each process accumulates the gradients of
    its share of batches.

    Args:
        config: the composed config, with the number of processes in ``distributed_training.distributed_world_size``;
            modified in place.
        overrides: the overrides of the config.

    Raises:
        UserError: the batches cannot be shared evenly, or an override sets ``optimization.update_freq`` too.
    """
    batches, processes = OmegaConf.select(config, "train.batches_per_update"), world_size(config)
    if batches is None:
        return
    if any(item.lstrip("+").startswith("optimization.update_freq=") for item in overrides):
        raise UserError(
            f"optimization.update_freq follows from train.batches_per_update={batches} and the number of processes: "
            "set that, or set it to null"
        )
    if batches % processes:
        shares = [number for number in range(1, batches + 1) if batches % number == 0]
        near = [*[n for n in shares if n < processes][-1:], *[n for n in shares if n > processes][:1]]
        multiples = [n for n in (batches // processes * processes, (batches // processes + 1) * processes) if n]
        raise UserError(
            f"train.batches_per_update={batches} cannot be shared evenly by {processes} processes: "
            f"{' or '.join(map(str, near))} processes would do, or train.batches_per_update="
            f"{' or '.join(map(str, multiples))}"
        )
    config.optimization.update_freq = [batches // processes]


def world_size(config: DictConfig) -> int:
    """Return the number of processes that train together, each on its own batches."""
    return max(1, int(config.distributed_training.distributed_world_size))  # hardware=gpus has none without a GPU


def keeps_update_size(config: DictConfig) -> bool:
    """Whether an update is the same on any number of processes, so that their number is no part of a cell's name."""
    return OmegaConf.select(config, "train.batches_per_update") is not None
