"""fairseq's trainer, with an empty batch for a process that has none left at the end of an uneven epoch."""

from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from fairseq import optim, trainer, utils
from omegaconf import DictConfig

from normplugins.training.half_precision import FP16Optimizer


class Trainer(trainer.Trainer):
    """fairseq's, made exact for several processes.

    fairseq lets a process without a batch repeat its first one with the loss times zero: the tokens would enter running
    statistics a second time, and what the process did in the other batches of that update would not count. Here it gets
    0 sentences, which count nowhere, and takes part in everything that is exchanged. In half precision the optimizer is
    :class:`normplugins.training.half_precision.FP16Optimizer`.
    """

    def __init__(self, cfg: DictConfig, *arguments: Any) -> None:
        if cfg.distributed_training.distributed_world_size > 1:
            # fairseq would send the first one's to the others in a form that PyTorch >= 2.6 refuses to read
            cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True
            if torch.cuda.is_available() and not cfg.common.cpu:
                cfg.distributed_training.device_id = torch.cuda.current_device()
        super().__init__(cfg, *arguments)

    def _build_optimizer(self) -> None:
        super()._build_optimizer()
        if type(self._optimizer) is optim.FP16Optimizer:  # which fairseq builds whatever is registered
            self._optimizer.__class__ = FP16Optimizer

    def _prepare_sample(self, sample: Any, is_dummy: bool = False) -> tuple[Any, bool]:
        if sample is None or len(sample) == 0:
            sample = empty(self._dummy_batch)
        prepared: tuple[Any, bool] = super()._prepare_sample(sample, is_dummy)
        return prepared


def empty(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch of 0 sentences, otherwise in the shape of this one: tokens (0, T)."""
    none: dict[str, Any] = utils.apply_to_sample(lambda tensor: tensor[:0], batch)
    return {**none, "nsentences": 0, "ntokens": 0}
