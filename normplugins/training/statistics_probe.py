"""Watches a model's norms at a few updates of training: batch against running statistics, and gradients.

The updates are on a grid that is even on a logarithmic scale and depends on nothing else, so that a run that was killed
probes the same ones. What is measured is in ``normplugins.training.batch_statistics``, and explained in docs/probe.md.
At other updates no hook is there.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from normplugins.norms.deferred_residual import DeferredResidual, materialize
from normplugins.training.batch_statistics import Pass, measure, running_before
from normplugins.utils.errors import UserError

PER_DECADE = 8
NORMS = ("norm", "final_norm")
"""What the models call their norms, wherever these stand."""


def is_probed(update: int) -> bool:
    """Whether an update, counted from 1, is one of 1, 2, 3, 4, 6, 7, 10, 13, 18, 24, 32, 42, 56, 75, 100, 133, ..."""
    return update == round(10 ** (round(PER_DECADE * math.log10(update)) / PER_DECADE))


def is_on(config: DictConfig) -> bool:
    """Whether ``train.probe`` of a run's config, or its default, asks for the probe; older configs do not say.

    Raises:
        UserError: it is asked for where layers run compiled or are run twice, so that no hook sees them as they train.
    """
    asked: bool | None = OmegaConf.select(config, "train.probe")
    hidden = [key for key in ("train.compile", "model.checkpoint_activations") if OmegaConf.select(config, key)]
    if asked and hidden:
        raise UserError(f"train.probe=true: it sees nothing with {hidden[0]}=true. Leave one of the two out")
    return not hidden if asked is None else asked


class StatisticsProbe:
    """Measures the norms of ``model`` at the updates of the grid; a probe that is not ``on`` measures nothing."""

    def __init__(self, model: nn.Module, on: bool) -> None:
        modules = model.named_modules() if on else ()
        self._norms = {name: module for name, module in modules if name.rpartition(".")[2] in NORMS}

    @contextmanager
    def watch(self, update: int) -> Iterator[list[dict[str, Any]]]:
        """Around an update's forward and backward passes; yields a list that takes, at the end, what was measured.

        That is nothing where the update is not on the grid, and otherwise one point for ``History.probe``: of the first
        batch of the update, ``{"update": 10, "layers": {"encoder.final_norm": {"tokens": 512.0, ...}, ...}}``, with
        six significant digits and None for what is not finite.
        """
        points: list[dict[str, Any]] = []
        if not (self._norms and is_probed(update)):
            yield points
            return
        found: dict[str, dict[str, Tensor]] = {}
        hooks = [hook for name, norm in self._norms.items() for hook in _watch_first_pass(name, norm, found)]
        try:
            yield points
        finally:
            for hook in hooks:
                hook.remove()
        layers = {name: _rounded(found[name]) for name in self._norms if found.get(name)}
        if layers:
            points.append({"update": update, "layers": layers})


def _watch_first_pass(name: str, norm: nn.Module, found: dict[str, dict[str, Tensor]]) -> list[Any]:
    """Hook ``norm``: its next forward and backward pass enter ``found`` under ``name``, and no later one does.

    The norm is given its input through a view, whose gradient is the norm's part alone where a residual connection uses
    the input too. Of a :class:`DeferredResidual` which the norm adds up in its own pass, the view is of the
    residual, whose gradient has both parts; the other part is taken off.
    """
    before: dict[str, Tensor] = {}
    entered: list[Tensor] = []

    def start(_norm: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if entered:
            return None
        before.update(running_before(norm))
        x = args[0]
        if isinstance(x, DeferredResidual) and x.update is not None:
            x.residual = x.residual.view_as(x.residual)
            entered.append(x.residual)
            return None
        x = materialize(x)
        entered.append(x.view_as(x))
        return (entered[0], *args[1:])

    def end(_norm: nn.Module, args: tuple[Any, ...], y: Tensor) -> None:
        if name in found:
            return
        found[name] = {}
        x, mask = args[0], args[1] if len(args) > 1 else None
        if not (y.requires_grad and entered[0].requires_grad):
            return
        arriving: dict[str, Tensor] = {}
        if isinstance(x, DeferredResidual):
            x.value.register_hook(lambda gradient: _take(arriving, "value", gradient))
        y.register_hook(lambda gradient: _take(arriving, "y", gradient))
        fused = isinstance(x, DeferredResidual) and x.value.grad_fn is y.grad_fn
        value, output = materialize(x).detach(), y.detach()

        def leave(gradient: Tensor) -> None:
            if "y" not in arriving:
                return
            grad_x: Tensor | None = gradient
            if fused and "value" in arriving:
                grad_x = gradient - arriving["value"]
            elif isinstance(x, DeferredResidual) and not fused:  # added up before the norm: its part is nowhere alone
                grad_x = None
            found[name] = measure(norm, Pass(value, mask, output, arriving.pop("y"), grad_x, before))
            arriving.clear()

        entered[0].register_hook(leave)

    return [norm.register_forward_pre_hook(start), norm.register_forward_hook(end)]


def _take(into: dict[str, Tensor], name: str, gradient: Tensor | None) -> None:
    if gradient is not None:
        into[name] = gradient


def _rounded(numbers: dict[str, Tensor]) -> dict[str, float | None]:
    values = torch.stack(list(numbers.values())).tolist()
    return {
        name: float(f"{value:.6g}") if math.isfinite(value) else None
        for name, value in zip(numbers, values, strict=True)
    }
