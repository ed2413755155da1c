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


class FusedAdam(torch.optim.Optimizer):
    """Adam with decoupled weight decay, equal to fairseq 0.12.2's up to rounding (arXiv 1412.6980, 1711.05101).

    With m and v the running means of a gradient g and of g², t = 1, 2, ... the number of updates in which the parameter
    had a gradient, and c1 = 1 - beta1^t, c2 = 1 - beta2^t:

        p <- p - lr * weight_decay * p
        p <- p - lr * sqrt(c2) / c1 * m / (sqrt(v) + eps)

    PyTorch's kernel divides by sqrt(v / c2) + eps instead, and therefore gets eps / sqrt(c2). State and settings have
    the layout of fairseq's Adam: each optimizer resumes from the other's checkpoints. All parameters are of one dtype;
    for a model in half precision, fairseq passes float32 copies of its parameters.
    """

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
        """Update every parameter that has a gradient; a ``closure`` is not supported."""
        for group in self.param_groups:
            by_kernel: dict[Any, list[Tensor]] = defaultdict(list)  # the parameters of one call of the kernel
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state |= {"step": 0} | {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                state["step"] += 1
                by_kernel[state["step"], parameter.device].append(parameter)
            for (step, device), parameters in by_kernel.items():
                self._update(group, step, device, parameters)

    def _update(self, group: dict[str, Any], step: int, device: torch.device, parameters: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        means, squares = (
            [self.state[parameter][name] for parameter in parameters] for name in ("exp_avg", "exp_avg_sq")
        )
        torch._fused_adamw_(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
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


# The first call of each of these methods would import torch._dynamo, which takes a second, only to tell torch.compile
# to skip the method.
for _name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
    setattr(FusedAdam, _name, inspect.unwrap(getattr(torch.optim.Optimizer, _name)))


@register_optimizer("fused_adam", dataclass=FairseqAdamConfig)
class FairseqFusedAdam(FairseqAdam):
    """:class:`FusedAdam` as a fairseq optimizer, with the settings of ``adam`` that :func:`check_adam` accepts."""

    def __init__(self, cfg: Any, params: Iterable[Any]) -> None:
        FairseqOptimizer.__init__(self, cfg)
        check_adam(cfg)
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


def check_adam(cfg: Any) -> None:
    """Raise UserError for settings with which fairseq's ``adam``, or our ``fused_adam``, cannot train."""
    if getattr(cfg, "fp16_adam_stats", False):
        raise UserError("optimizer.fp16_adam_stats=true is not supported: leave it out")
    for name in ("use_old_adam", "tpu") if cfg._name == "fused_adam" else ():
        if getattr(cfg, name, False):
            raise UserError(f"optimizer.{name}=true is not supported by fused_adam")
    read_betas(cfg.adam_betas)


def read_betas(betas: Any) -> tuple[float, float]:
    """Read two numbers in [0, 1) from a pair or a string such as ``(0.9, 0.98)``; raise UserError for anything else."""
    try:
        first, second = map(float, ast.literal_eval(betas) if isinstance(betas, str) else betas)
    except (ValueError, TypeError, SyntaxError):
        first = second = math.nan
    if not (0 <= first < 1 and 0 <= second < 1):
        raise UserError(f"optimizer.adam_betas={betas} must be two numbers from 0 to below 1, such as (0.9, 0.98)")
    return first, second
