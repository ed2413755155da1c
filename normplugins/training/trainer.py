"""fairseq's trainer, made exact for several processes, and with ``precision=bf16``."""

from typing import Any

import torch
from fairseq import trainer, utils
from omegaconf import DictConfig


class Trainer(trainer.Trainer):
    """fairseq's trainer, with empty batches for a process that has no batch left.

    With ``precision=bf16`` in the config, autocast computes matrix products and activations in bfloat16.

    At the end of an uneven epoch, fairseq lets a process that has no batch left repeat its first batch with the loss
    multiplied by zero. The tokens would enter the running statistics a second time, and the other batches of that
    process in the same update would not count. Here the process gets a batch of 0 sentences, which does not count, and
    takes part in all communication.
    """

    def __init__(self, cfg: DictConfig, *arguments: Any) -> None:
        if cfg.distributed_training.distributed_world_size > 1:
            # Otherwise fairseq sends rank zero's checkpoint to the other ranks in a form that PyTorch >= 2.6 refuses.
            cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True
            if torch.cuda.is_available() and not cfg.common.cpu:
                cfg.distributed_training.device_id = torch.cuda.current_device()
        super().__init__(cfg, *arguments)
        if cfg.get("precision") == "bf16":  # fairseq's task turns autocast off around the criterion, so it begins here
            self._criterion.forward = torch.autocast(self.device.type, torch.bfloat16)(self._criterion.forward)

    def load_checkpoint(self, *arguments: Any, **options: Any) -> dict[str, Any] | None:
        """Load the training state of a checkpoint and return its ``extra_state``, or None without a checkpoint.

        Raises:
            Exception: the original error, such as a lost rank; fairseq would report it as a wrong model architecture.
        """
        try:
            extra_state: dict[str, Any] | None = super().load_checkpoint(*arguments, **options)
        except Exception as error:
            if type(error) is Exception and error.__context__:
                raise error.__context__ from None
            raise
        if extra_state and "processes" in extra_state:
            # With train.batches_per_update, any number of processes makes the same updates: convert the position.
            position, batches = extra_state["train_iterator"], extra_state["processes"]
            batches *= position["iterations_in_epoch"]
            position["iterations_in_epoch"] = batches // self.data_parallel_world_size
        return extra_state

    def cumulative_training_time(self) -> float:
        """Return the training time in seconds, averaged over ranks, so that all ranks save checkpoints together.

        Before the first update, fairseq would return each rank's own time.
        """
        if self.data_parallel_world_size > 1 and self._cumulative_training_time is None:
            return float(self._previous_training_time)
        return float(super().cumulative_training_time())

    def _prepare_sample(self, sample: Any, is_dummy: bool = False) -> tuple[Any, bool]:
        if sample is None or len(sample) == 0:
            sample = empty(self._dummy_batch)
        return super()._prepare_sample(sample, is_dummy)


def empty(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of ``batch`` with 0 sentences, in which tensors (B, T) become (0, T)."""
    return {**utils.apply_to_sample(lambda tensor: tensor[:0], batch), "nsentences": 0, "ntokens": 0}
