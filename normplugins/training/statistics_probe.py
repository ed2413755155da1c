"""Measures a model's norms at a few updates of training: statistics of the batch, running statistics and gradients.

docs/probe.md defines each number. The updates are evenly spaced on a logarithmic scale and depend on nothing else, so a
resumed run measures the same updates. No hook is registered at other updates.
"""

import math
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from normplugins.models.layers import NORM_ATTRIBUTES
from normplugins.norms.batch_moments import BatchMomentsNorm
from normplugins.norms.group_scaling import scale_groups
from normplugins.norms.tokens import token_rows

PER_DECADE = 8
"""The number of probed updates between an update and ten times that update."""


def is_probed(update: int) -> bool:
    """Whether an update, counted from 1, is one of 1, 2, 3, 4, 6, 7, 10, 13, 18, 24, 32, 42, 56, 75, 100, 133, ..."""
    return update == round(10 ** (round(PER_DECADE * math.log10(update)) / PER_DECADE))


def is_on(config: DictConfig) -> bool:
    """Whether a run has the probe, which is off if layers are compiled or run twice: hooks then miss passes."""
    return bool(config.train.probe and not config.train.compile and not config.model.get("checkpoint_activations"))


class StatisticsProbe:
    """Measures the norms of ``model``; measures nothing unless it is ``on``."""

    def __init__(self, model: nn.Module, on: bool) -> None:
        modules = model.named_modules() if on else ()
        self._norms = {name: module for name, module in modules if name.rpartition(".")[2] in NORM_ATTRIBUTES}
        self._with_nu: list[Any] = [norm for norm in self._norms.values() if hasattr(norm, "nu")]

    @contextmanager
    def watch(self, update: int) -> Iterator[list[dict[str, Any]]]:
        """Measure the forward and backward passes of the first batch in this context.

        Yields a list, to which one point for ``History.probe`` is added at the end if the update is probed:
        ``{"update": 10, "layers": {"encoder.final_norm": {"tokens": 512.0, ...}, ...}}``, with numbers of six
        significant digits, or None for numbers that are not finite.
        """
        points: list[dict[str, Any]] = []
        found: dict[str, dict[str, Tensor]] = {}
        norms = self._norms if is_probed(update) else {}
        hooks = [hook for name, norm in norms.items() for hook in _watch_first_pass(name, norm, found)]
        try:
            yield points
        finally:
            for hook in hooks:
                hook.remove()
        layers = {}
        for name in filter(found.get, norms):
            values = torch.stack(list(found[name].values())).tolist()  # one wait for the device
            rounded = [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
            layers[name] = dict(zip(found[name], rounded, strict=True))
        if layers:
            points.append({"update": update, "layers": layers})

    def largest_nu(self) -> float | None:
        """Return the largest ‖ν‖/d of the norms now, NaN if one is not finite; None without ν or if off."""
        sizes = [_size(norm.nu) for norm in self._with_nu]
        return float(torch.stack(sizes).max()) if sizes else None


def _watch_first_pass(name: str, norm: nn.Module, found: dict[str, dict[str, Tensor]]) -> list[Any]:
    """Register hooks that measure the next forward and backward pass of ``norm`` into ``found[name]``.

    The norm gets a view of its input. The view's gradient comes from the norm alone, without the gradient of a residual
    connection that also uses the input.
    """
    running: dict[str, Tensor] = {}
    entered: list[Tensor] = []

    def before_forward(_norm: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if entered:
            return None
        running.update(running_before(norm))
        entered.append(args[0].view_as(args[0]))
        return (entered[0], *args[1:])

    def after_forward(_norm: nn.Module, args: tuple[Any, ...], y: Tensor) -> None:
        if name in found:
            return
        found[name] = {}
        x, mask = args[0], args[1] if len(args) > 1 else None
        if not (y.requires_grad and entered[0].requires_grad):
            return
        gradients: dict[str, Tensor] = {}
        y.register_hook(partial(operator.setitem, gradients, "y"))
        value, output = x.detach(), y.detach()

        def after_backward(grad_x: Tensor) -> None:
            if (grad_y := gradients.pop("y", None)) is not None:
                found[name] = measure(norm, value, mask, output, grad_y, grad_x, running)

        entered[0].register_hook(after_backward)

    return [norm.register_forward_pre_hook(before_forward), norm.register_forward_hook(after_forward)]


def running_before(norm: nn.Module) -> dict[str, Tensor]:
    """Return copies in float64 of the running statistics (C,) that ``norm`` has."""
    names = ("running_mean", "running_var", "running_phi", "nu")
    return {name: getattr(norm, name).to(torch.float64, copy=True) for name in names if hasattr(norm, name)}


@torch.no_grad()
def measure(
    norm: nn.Module,
    x: Tensor,
    padding_mask: Tensor | None,
    y: Tensor,
    grad_y: Tensor,
    grad_x: Tensor,
    running: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Compute the numbers of docs/probe.md for one pass of a norm, over the tokens of its batch.

    It uses no random numbers and does not change the norm.

    Args:
        norm: the norm.
        x: its input, (T, B, C) or (N, C).
        padding_mask: (B, T) or (N,), True at padding.
        y: norm(x), in the shape of ``x``.
        grad_y: gradient with respect to ``y``.
        grad_x: the norm's part of the gradient with respect to ``x``.
        running: what :func:`running_before` returned before this pass.

    Returns:
        Scalars in float64 on the device of ``x``; none for a batch without tokens.
    """
    z, dim, positions = _tokens(x, padding_mask), x.size(-1), x.numel() // max(x.size(-1), 1)
    count = len(z)
    if not count:
        return {}
    found = {"tokens": z.new_tensor(count)}
    if getattr(norm, "group_scaling", False):
        groups, eps = getattr(norm, "groups", 1), float(norm.eps)  # type: ignore[arg-type]
        factors = torch.rsqrt(z.view(count, groups, dim // groups).square().mean(-1) + eps)
        found |= {"group_scale_mean": factors.mean(), "group_scale_deviation": factors.std(correction=0)}
        z = scale_groups(z, groups, eps)
    mean = z.mean(0)
    var = (z - mean).square_().mean(0).double()
    mean = mean.double()
    square = var + mean.square()
    varies = var > 0
    found |= {
        "mean": _size(mean),
        "variance": _size(var),
        "quadratic_mean": _size(square),
        "psi_over_sigma": (square / var).sqrt()[varies].mean(),
    }
    padding_filled = getattr(norm, "padding_filled", False)  # the norm counts padding in its variance
    updates_with = var
    if isinstance(norm, BatchMomentsNorm):
        counted = var.new_tensor(positions if padding_filled else count)
        updates_with = norm.batch_statistics(found["tokens"], counted, mean, var * count / counted)[1]
    found |= _distances(mean, updates_with, square, running)
    g = _tokens(grad_y, padding_mask)
    found["grad_output"] = torch.linalg.vector_norm(g)
    found["grad_input"] = torch.linalg.vector_norm(_tokens(grad_x, padding_mask))
    g = g.double()
    sum_g, sum_gg, sum_gz = g.sum(0), g.square().sum(0), (g * z).sum(0)
    # ||dL/dz||^2 of PN-V and of BN for this z and g
    pnv = (sum_gg - sum_gz.square() / (count * square)) / square
    bn = (sum_gg - (sum_gz - mean * sum_g).square() / (count * var) - sum_g.square() / count) / var
    found["pnv_bound_smaller"] = (pnv < bn)[varies].double().mean()
    weight = _per_channel(norm, "weight", torch.ones_like(mean))
    bias = _per_channel(norm, "bias", torch.zeros_like(mean))
    counts_padding = padding_filled or getattr(norm, "padding_in_backward", False)
    products = ((g * _tokens(y, padding_mask)).sum(0) - bias * sum_g) / (positions if counts_padding else count)
    found |= {"grad_mean": _size(weight * sum_g / count), "grad_product": _size(products)}
    if (nu := running.get("nu")) is not None:
        found |= {"nu": _size(nu), "nu_distance": _size(products - nu)}
    return {name: value.double() for name, value in found.items()}


def _distances(mean: Tensor, var: Tensor, square: Tensor, running: dict[str, Tensor]) -> dict[str, Tensor]:
    """Compare a batch's mean, variance (as it updates the running one) and quadratic mean with the running ones."""
    found = {}
    running_mean, running_var, running_phi = (running.get(f"running_{name}") for name in ("mean", "var", "phi"))
    if running_mean is not None:
        found["mean_distance"] = _size(mean - running_mean)
    if running_var is not None:
        sigma = running_var.sqrt()
        found["variance_distance"] = _size(var - running_var)
        found["deviation_tid"] = (var.sqrt() - sigma).norm() / sigma.norm()
        if running_mean is not None:
            found["mean_tid"] = (mean - running_mean).norm() / sigma.norm()
    if running_phi is not None:
        psi = running_phi.sqrt()
        found["quadratic_mean_distance"] = _size(square - running_phi)
        found["psi_tid"] = (square.sqrt() - psi).norm() / psi.norm()
    return found


def _tokens(x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Return the tokens of x (T, B, C) or (N, C) as rows (N', C), in at least float32."""
    rows, real = token_rows(x, padding_mask, x.size(-1))
    return rows if real is None else rows[real.view(-1)]


def _per_channel(norm: nn.Module, name: str, default: Tensor) -> Tensor:
    """Return the norm's weight or bias (C,) in float64, or ``default`` (C,) if it has none per channel."""
    value = getattr(norm, name, None)
    return value.double() if isinstance(value, Tensor) and value.shape == default.shape else default


def _size(values: Tensor) -> Tensor:
    """Return ||values||_2 / d for the values of d channels, the measure of the paper."""
    return values.norm() / len(values)
