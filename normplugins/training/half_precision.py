"""fairseq's optimizer for models of half precision, in a few kernels an update, and resumed to the bit."""

from typing import Any

import torch
from fairseq import optim
from torch import Tensor


class FP16Optimizer(optim.FP16Optimizer):
    """fairseq's: the model in bfloat16 or float16, the optimizer on float32 copies of its parameters.

    fairseq copies gradients and parameters one by one, and forgets the copies when a run is broken off: it goes on from
    what is left of them in half precision. Here they are in the checkpoint, beside the optimizer's state. The class has
    the name of fairseq's, by which that knows its checkpoints; each reads the other's.
    """

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state, the loss scale, and the float32 parameters as ``fp32_params``."""
        return {**super().state_dict(), "fp32_params": [parameter.detach() for parameter in self._copies()]}

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: dict[str, Any] | None = None) -> None:
        """Take up a state; one of fairseq's leaves the float32 parameters as the model's are."""
        for copy, saved in zip(self._copies(), state_dict.get("fp32_params", ()), strict=False):
            copy.data.copy_(saved)
        super().load_state_dict(state_dict, optimizer_overrides)

    def zero_grad(self) -> None:
        """Forget the model's gradients, and set those of the copies to zero."""
        for parameter in self.fp16_params:
            parameter.grad = None
        torch._foreach_zero_([copy.grad for copy in self._copies() if copy.grad is not None])
        self._needs_sync = False
        if self.scaler is not None:
            self._multiply_factor = 1.0 / float(self.scaler.loss_scale)

    def _copies(self) -> list[Tensor]:
        """One for each parameter; in one piece for each device where fairseq has flattened them."""
        return list(self.fp32_params.values() if isinstance(self.fp32_params, dict) else self.fp32_params)

    def _sync_fp16_grads_to_fp32(self) -> None:
        if self.has_flat_params:
            super()._sync_fp16_grads_to_fp32()
        elif self._needs_sync:  # zero_grad, before every update, has seen to those without a gradient
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
