"""``fused_adam``: fairseq's Adam, with all parameters updated by one of PyTorch's fused kernels."""

import ast
import inspect
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import Tensor

from normplugins.utils.errors import UserError

FUSED_DTYPES = (torch.float32, torch.float64)  # parameters of other dtypes are updated in float32


class FusedAdam(torch.optim.Optimizer):
    """Adam with decoupled weight decay, equal to fairseq 0.12.2's up to rounding (arXiv 1412.6980, 1711.05101).

    With m and v the running means of a gradient g and of g², both in float32 (float64 for float64 parameters), t = 1,
    2, ... the number of updates in which the parameter had a gradient, and c1 = 1 - beta1^t, c2 = 1 - beta2^t:

        p <- p - lr * weight_decay * p
        p <- p - lr * sqrt(c2) / c1 * m / (sqrt(v) + eps)

    PyTorch's kernel divides by sqrt(v / c2) + eps instead, and therefore gets eps / sqrt(c2). State and settings have
    the layout of fairseq's Adam: each optimizer resumes from the other's checkpoints.
    """

    supports_memory_efficient_fp16 = True  # half-precision parameters with float32 state
    supports_flat_params = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": False})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update every parameter that has a gradient; a ``closure`` is not supported.

        Raises:
            ValueError: a gradient is sparse, or a group asks for amsgrad.
        """
        for group in self.param_groups:
            if group.get("amsgrad"):
                raise ValueError("fused_adam has no amsgrad: use optimizer=adam")
            by_kernel: dict[Any, list[Tensor]] = defaultdict(list)  # the parameters of one call of the kernel
            for parameter in group["params"]:
                if parameter.grad is not None:  # other dtypes one at a time, because their float32 copies take memory
                    kind = parameter.dtype if parameter.dtype in FUSED_DTYPES else parameter
                    by_kernel[self._count_update(parameter), parameter.device, kind].append(parameter)
            for (step, device, _), parameters in by_kernel.items():
                self._update(group, step, device, parameters)

    def _count_update(self, parameter: Tensor) -> int:
        """Increment the update count of a parameter and return it; create or convert its state if necessary."""
        state, of_state = self.state[parameter], parameter.dtype if parameter.dtype in FUSED_DTYPES else torch.float32
        state["step"] = state.get("step", 0) + 1
        for name in ("exp_avg", "exp_avg_sq"):
            if name in state:  # a checkpoint may hold it on the CPU and in half precision
                state[name] = state[name].to(parameter.device, of_state).contiguous()
            else:
                state[name] = torch.zeros(parameter.shape, dtype=of_state, device=parameter.device)
        return int(state["step"])

    def _update(self, group: dict[str, Any], step: int, device: torch.device, parameters: list[Tensor]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        means, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            raise ValueError("fused_adam takes no sparse gradients")
        # The kernel needs contiguous tensors of one dtype: other parameters are copied, updated and copied back.
        updated, gradients = (
            [tensor.to(mean.dtype).contiguous() for tensor, mean in zip(tensors, means, strict=True)]
            for tensors in (parameters, gradients)
        )
        beta1, beta2 = group["betas"]
        torch._fused_adamw_(
            updated,
            gradients,
            means,
            squares,
            max_exp_avg_sqs=[],
            state_steps=[torch.full((), step, dtype=torch.float32, device=device)] * len(parameters),
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"] / math.sqrt(1 - beta2**step),
            amsgrad=False,
            maximize=False,
        )
        for parameter, copy in zip(parameters, updated, strict=True):
            if copy is not parameter:
                parameter.copy_(copy)


# The first call of each of these methods would import torch._dynamo, which takes a second, only to tell torch.compile
# to skip the method.
for _name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
    setattr(FusedAdam, _name, inspect.unwrap(getattr(torch.optim.Optimizer, _name)))


@register_optimizer("fused_adam", dataclass=FairseqAdamConfig)
class FairseqFusedAdam(FairseqAdam):
    """:class:`FusedAdam` as a fairseq optimizer, with the settings of fairseq's ``adam``.

    Raises UserError for settings that choose another implementation, and unless betas are two numbers in [0, 1).
    """

    def __init__(self, cfg: Any, params: Iterable[Any]) -> None:
        FairseqOptimizer.__init__(self, cfg)
        for name in ("use_old_adam", "fp16_adam_stats", "tpu"):
            if getattr(cfg, name, False):
                raise UserError(f"{name} has no effect on optimizer=fused_adam: use optimizer=adam")
        self._optimizer = FusedAdam(params, **self.optimizer_config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """The arguments of the optimizer, which take precedence over those in a checkpoint."""
        lr = self.cfg.lr[0] if isinstance(self.cfg.lr, Sequence) else self.cfg.lr
        betas = read_betas(self.cfg.adam_betas)
        return {"lr": lr, "betas": betas, "eps": self.cfg.adam_eps, "weight_decay": self.cfg.weight_decay}

    def multiply_grads(self, c: float | Tensor) -> None:
        """Multiply all gradients by ``c``."""
        if gradients := [parameter.grad for parameter in self.params if parameter.grad is not None]:
            torch._foreach_mul_(gradients, c.to(gradients[0].device) if isinstance(c, Tensor) else c)


# fairseq resumes only with an optimizer whose class has the name stored in the checkpoint. This class saves the same
# state as FairseqAdam, so that each can resume the other's run.
FairseqFusedAdam.__name__ = FairseqAdam.__name__


def read_betas(betas: Any) -> tuple[float, float]:
    """Read two numbers in [0, 1) from a pair or a string such as ``(0.9, 0.98)``; raise UserError for anything else."""
    try:
        first, second = map(float, ast.literal_eval(betas) if isinstance(betas, str) else betas)
    except (ValueError, TypeError, SyntaxError):
        first = second = math.nan
    if not (0 <= first < 1 and 0 <= second < 1):
        raise UserError(f"optimizer.adam_betas={betas}: two numbers from 0 to below 1 are needed, such as (0.9, 0.98)")
    return first, second
