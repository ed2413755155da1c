"""Adds the terms that norms such as ``rbn`` contribute to the loss, whatever the criterion."""

from typing import Any

from fairseq import criterions
from torch import Tensor, nn

_build_criterion = criterions.build_criterion


def patch_fairseq() -> None:
    """Make fairseq's tasks, and thereby its command lines, add the terms to the loss of each training batch."""
    criterions.build_criterion = build_criterion


def build_criterion(cfg: Any, task: Any) -> nn.Module:
    """Build a criterion as fairseq does, and let it add the norms' terms to its loss."""
    criterion: nn.Module = _build_criterion(cfg, task)
    criterion.register_forward_hook(add_loss_terms)
    return criterion


def add_loss_terms(
    criterion: nn.Module,  # noqa: ARG001
    inputs: tuple[nn.Module, Any],
    output: tuple[Tensor, int, dict[str, Any]],
) -> tuple[Tensor, int, dict[str, Any]]:
    """Add each norm's ``loss_term`` to the loss of a training batch; the logged loss does not contain them."""
    loss, sample_size, logged = output
    for module in inputs[0].modules():
        term = getattr(module, "loss_term", None)
        if term is not None:
            loss = loss + term if module.training else loss
            setattr(module, "loss_term", None)  # noqa: B010 - it holds the batch's graph
    return loss, sample_size, logged
