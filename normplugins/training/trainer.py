"""fairseq's trainer, made exact for several processes and for half precision."""

from typing import Any

import torch
from fairseq import optim, trainer, utils
from omegaconf import DictConfig
from torch import Tensor


class Trainer(trainer.Trainer):
    """fairseq's trainer with :class:`FP16Optimizer`, and with empty batches for a process that has no batch left.

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
            Exception: the original error, such as a lost rank, which fairseq would report as another model
                architecture.
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

    def _build_optimizer(self) -> None:
        super()._build_optimizer()
        if type(self._optimizer) is optim.FP16Optimizer:  # fairseq has no registry for it
            self._optimizer.__class__ = FP16Optimizer

    def _prepare_sample(self, sample: Any, is_dummy: bool = False) -> tuple[Any, bool]:
        if sample is None or len(sample) == 0:
            sample = empty(self._dummy_batch)
        return super()._prepare_sample(sample, is_dummy)


def empty(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of ``batch`` with 0 sentences, in which tensors (B, T) become (0, T)."""
    return {**utils.apply_to_sample(lambda tensor: tensor[:0], batch), "nsentences": 0, "ntokens": 0}


class FP16Optimizer(optim.FP16Optimizer):
    """Optimizer for a model in bfloat16 or float16, which updates float32 copies of the model's parameters.

    fairseq's class copies gradients and parameters one at a time, and does not save the copies: a resumed run starts
    from their half-precision values. This class saves them in the checkpoint. It has the same name as fairseq's,
    because fairseq identifies checkpoints by it; each class reads the other's checkpoints.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the wrapped optimizer's state, the loss scale, and the float32 parameters as ``fp32_params``."""
        return {**super().state_dict(), "fp32_params": [parameter.detach() for parameter in self._copies()]}

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: dict[str, Any] | None = None) -> None:
        """Load a state; a state saved by fairseq's class leaves the float32 parameters equal to the model's."""
        for copy, saved in zip(self._copies(), state_dict.get("fp32_params", ()), strict=False):
            copy.data.copy_(saved)
        super().load_state_dict(state_dict, optimizer_overrides)

    def zero_grad(self) -> None:
        """Free the model's gradients and set the gradients of the copies to zero."""
        for parameter in self.fp16_params:
            parameter.grad = None
        torch._foreach_zero_([copy.grad for copy in self._copies() if copy.grad is not None])
        self._needs_sync = False
        if self.scaler is not None:
            self._multiply_factor = 1.0 / float(self.scaler.loss_scale)

    def _copies(self) -> list[Tensor]:
        """Return the float32 copies, one per parameter, or one per device if fairseq has flattened them."""
        return list(self.fp32_params.values() if isinstance(self.fp32_params, dict) else self.fp32_params)

    def _sync_fp16_grads_to_fp32(self) -> None:
        if self.has_flat_params:
            super()._sync_fp16_grads_to_fp32()
        elif self._needs_sync:  # zero_grad has zeroed the copies' gradients before
            pairs = zip(self._copies(), self.fp16_params, strict=True)
            grads = [(copy.grad, of.grad) for copy, of in pairs if copy.grad is not None and of.grad is not None]
            if grads:
                torch._foreach_copy_([copy for copy, _ in grads], [of for _, of in grads])
            self._needs_sync = False

    def _sync_fp32_params_to_fp16(self) -> None:
        if self.has_flat_params:
            super()._sync_fp32_params_to_fp16()
        else:
            torch._foreach_copy_([of.data for of in self.fp16_params], [copy.data for copy in self._copies()])
