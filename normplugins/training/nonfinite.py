"""Finds the layer in which a batch's loss or gradients stop being finite."""

from collections.abc import Sequence
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from fairseq.trainer import Trainer
from torch import nn


def locate(trainer: Trainer, samples: Sequence[dict[str, Any]]) -> str | None:
    """Repeat a step's forward and backward passes and name the first place that is not finite.

    Returns:
        ``the output of encoder.layers.3.norm``, or, when every output is finite, ``the gradient of`` the parameter
        closest to the loss; None when neither shows it.
    """
    model: nn.Module = trainer.get_model()
    first: list[str] = []

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not first and any(not torch.isfinite(tensor).all() for tensor in _floating(output)):
                first.append(name)

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    trainer.zero_grad()
    trainer._set_seed()  # the dropout masks of the step that failed
    try:
        for sample in samples:
            prepared, _ = trainer._prepare_sample(sample)
            trainer.task.train_step(
                prepared, trainer.model, trainer.criterion, trainer.optimizer, trainer.get_num_updates()
            )
    finally:
        for hook in hooks:
            hook.remove()
    if first:
        return f"the output of {first[0]}"
    broken = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
    return f"the gradient of {broken[-1]}" if broken else None


def first_nonfinite_state(model: nn.Module) -> str | None:
    """The name of the first parameter or buffer that is not finite; None when all are."""
    state = model.state_dict()
    finite = torch.stack([torch.isfinite(value).all() for value in state.values()])
    names = [name for name, fine in zip(state, finite.tolist(), strict=True) if not fine]  # one wait for the device
    return names[0] if names else None


def _floating(output: Any) -> list[torch.Tensor]:
    """Every floating-point tensor in a module's output."""
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = list(output.values())
    return [tensor for part in output for tensor in _floating(part)] if isinstance(output, list | tuple) else []
