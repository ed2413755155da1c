"""Finds the layer in which the loss or the gradients of a batch become infinite or NaN."""

from collections.abc import Sequence
from typing import Any

import torch
from fairseq.trainer import Trainer
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._pytree import tree_leaves


def locate(trainer: Trainer, samples: Sequence[dict[str, Any]]) -> str | None:
    """Repeat the forward and backward passes of an update and name the first tensor that is not finite.

    Returns:
        "the output of" a module, such as ``encoder.layers.3.norm``; if all outputs are finite, "the gradient of" the
        parameter closest to the loss; None if all gradients are finite too.
    """
    model: nn.Module = trainer.get_model()
    names = {module: name for name, module in model.named_modules() if name}
    first: list[str] = []

    def look(module: nn.Module, _inputs: Any, output: Any) -> None:
        if first or module not in names:
            return
        if any(isinstance(x, Tensor) and not x.isfinite().all() for x in tree_leaves(output)):
            first.append(names[module])

    hook = register_module_forward_hook(look)
    trainer.zero_grad()
    trainer._set_seed()  # the same dropout masks as in the update
    try:
        for sample in samples:
            prepared, _ = trainer._prepare_sample(sample)
            trainer.task.train_step(
                prepared, trainer.model, trainer.criterion, trainer.optimizer, trainer.get_num_updates()
            )
    finally:
        hook.remove()
    if first:
        return f"the output of {first[0]}"
    gradients = ((name, parameter.grad) for name, parameter in model.named_parameters())
    broken = [name for name, gradient in gradients if gradient is not None and not gradient.isfinite().all()]
    return f"the gradient of {broken[-1]}" if broken else None


def first_nonfinite_state(model: nn.Module) -> str | None:
    """Return the name of the first parameter or buffer that is not finite, or None."""
    state = model.state_dict()
    finite = torch.stack([value.isfinite().all() for value in state.values()]).tolist()  # one wait for the device
    return next((name for name, fine in zip(state, finite, strict=True) if not fine), None)
