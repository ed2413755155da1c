"""Base of ``un`` and ``mabn``: averages of mean(x^2), and of mean(g z) in the backward, over the last batches."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normplugins.norms.quadratic_mean import QuadraticMeanNorm
from normplugins.norms.settings import EpsSettings, RunningSettings, setting
from normplugins.norms.statistics import recomputing
from normplugins.norms.tokens import count_tokens, mean_over, token_rows, zero_padding
from normplugins.norms.torch_compile import opaque_copy

LARGEST_RATIO = 5.0


@dataclass(frozen=True)
class WindowSettings(RunningSettings, EpsSettings):
    """Settings of a norm with windows of statistics."""

    window: int = setting(4, "batches whose statistics are averaged", minimum=1)
    ratio_from: int = setting(
        1000, "the update from which the ratio to the running quadratic mean is used, but not in the warmup", minimum=0
    )


class Scales(NamedTuple):
    """The values that a forward saves for its backward."""

    scale: Tensor
    """(C,): 1 / sqrt(the quadratic mean that the norm divides by + eps)"""
    ratio: Tensor
    """(C,): the root of that quadratic mean divided by the root of the running one, clipped"""
    smooth: Tensor
    """scalar: whether averages over the windows are used rather than the batch's own values"""
    skipped: Tensor
    """scalar: whether the batch is an outlier that must not enter the windows"""


class Average(NamedTuple):
    """The result of adding a batch to the window."""

    phi: Tensor
    """(C,): the quadratic mean to divide by"""
    row: Tensor
    """(C,): the new row of the window"""
    smooth: Tensor
    skipped: Tensor


class _WindowBackward(torch.autograd.Function):
    """y = weight z + bias (in ``mabn`` weight ratio z + bias), z = x scale, and the backward of a norm with windows.

        g = weight ratio dL/dy        dL/dx = scale (g - z average)        dL/dweight = sum(dL/dy z) ratio

    where the norm computes ``average`` (C,) from mean(g z) of the last batches.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor,
        ratio: Tensor,
        smooth: Tensor,
        skipped: Tensor,
        count: Tensor,
        norm: "WindowNorm",
    ) -> Tensor:
        ctx.save_for_backward(rows, weight, scale, ratio, smooth, skipped, count)
        ctx.norm = norm
        return torch.addcmul(bias, rows, weight * (scale * ratio if norm.ratio_in_forward else scale))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, scale, ratio, smooth, skipped, count = ctx.saved_tensors
        grad_weight = (dy * rows).sum(0) * scale * ratio
        average = ctx.norm.smooth_projection(count, weight * grad_weight / count.clamp(min=1), smooth, skipped)
        grad_rows = torch.addcmul(rows * (-average.to(rows.dtype) * scale.square()), dy, weight * ratio * scale)
        return grad_rows, grad_weight, dy.sum(0), *[None] * 6


class WindowNorm(QuadraticMeanNorm):
    """Base class: y = weight x / sqrt(phi + eps) + bias, with phi an average of the last batches' mean(x^2).

    Means are over real tokens, in the backward as well; the output at padding is 0. At evaluation phi is the running
    quadratic mean. Buffers: ``running_phi`` (C,) starts at 1; ``window_phi`` and ``window_gz`` (window, C) hold
    mean(x^2) and mean(g z) of the last batches, the newest in the last row; ``num_updates`` counts the batches (with
    ``per_update``: updates).

    Under activation checkpointing the recomputation uses the scales of the module's latest forward.
    """

    statistics: ClassVar[tuple[str, ...]] = (*QuadraticMeanNorm.statistics, "window_phi", "window_gz")
    updates_in_backward: ClassVar[bool] = True
    ratio_in_forward: ClassVar[bool]
    window_phi: Tensor
    window_gz: Tensor
    num_updates: Tensor
    window: int
    ratio_from: int
    warmup_updates: int

    def __init__(self, dim: int, settings: WindowSettings) -> None:
        super().__init__(dim, settings)
        for name in ("window_phi", "window_gz"):
            self.register_buffer(name, self.running_phi.new_zeros(settings.window, dim))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self._latest: Scales | None = None  # of the latest forward, for its recomputation

    def average(self, phi: Tensor) -> Average:
        """Return the result of adding a batch's quadratic mean phi (C,) to the window; no statistic is changed."""
        raise NotImplementedError

    def average_projection(self, own: Tensor, smooth: Tensor, skipped: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the coefficient (C,) of z that the backward subtracts, and the new values of statistics by name.

        ``own`` is the batch's mean(g z) (C,). No statistic is changed.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Normalize x (T, B, C) or (N, C); in training, update the running statistics."""
        rows, real = token_rows(x, padding_mask, self.dim)
        rows = zero_padding(rows, real)
        if self.training:
            count = count_tokens(rows, real)
            with torch.no_grad():
                scales = self._scales(*self.synchronize(count, mean_over(rows.square(), count)))
            y: Tensor = _WindowBackward.apply(  # type: ignore[no-untyped-call]
                rows, self.weight.to(rows.dtype), self.bias.to(rows.dtype), *scales, count, self
            )
        else:
            y = self.affine(rows, torch.rsqrt(self.running_phi + self.eps))
        return zero_padding(y, real).view(x.shape).to(x.dtype)

    def _scales(self, count: Tensor, phi: Tensor) -> Scales:
        if recomputing() and self._latest is not None:
            return self._latest
        average = self.average(torch.where(count > 0, phi, self.running_phi.to(phi.dtype)))
        scale = torch.rsqrt(average.phi + self.eps)
        ratio = (torch.rsqrt(self.running_phi + self.eps) / scale).clamp(1 / LARGEST_RATIO, LARGEST_RATIO)
        with_ratio = average.smooth & (self.num_updates >= max(self.ratio_from, self.warmup_updates))
        ratio = torch.where(with_ratio, ratio, torch.ones_like(ratio))
        self._latest = Scales(*(opaque_copy(each) for each in (scale, ratio, average.smooth, average.skipped)))
        self.update_running_stats(count, phi)
        return self._latest

    def step(self, count: Tensor, *moments: Tensor) -> None:
        """Add a batch's quadratic mean to the window and to the running quadratic mean, if the batch has a token."""
        counts = count > 0
        average = self.average(torch.where(counts, moments[0].to(self.running_phi.dtype), self.running_phi))
        self.running_phi.lerp_(average.phi, self.momentum * counts.to(average.phi.dtype))
        self.window_phi.copy_(torch.where(counts, self.with_row(self.window_phi, average.row), self.window_phi))
        self.num_updates.add_(counts)

    def smooth_projection(self, count: Tensor, projection: Tensor, smooth: Tensor, skipped: Tensor) -> Tensor:
        """Return the average for a batch's mean(g z) (C,) over ``count`` tokens; update the backward's statistics."""
        count, projection = self.synchronize(count, projection)
        average, new = self.average_projection(projection.to(self.window_gz.dtype), smooth, skipped)
        # a window holds whole batches, so a batch with a gradient that is not finite counts as a batch without tokens
        count = torch.where(projection.isfinite().all(), count, 0)
        if self.per_update or self._estimating:
            self.update_after_backward(count, projection)
        else:  # this module may have run another forward since the forward of this backward
            self._store(count, new)
        return average

    def step_backward(self, count: Tensor, *moments: Tensor) -> None:
        """Update the backward's statistics with an update's mean(g z), if the update has a token."""
        if self._latest is None:  # no training batch yet
            return
        own = moments[0].to(self.window_gz.dtype)
        self._store(count, self.average_projection(own, self._latest.smooth, self._latest.skipped)[1])

    def _store(self, count: Tensor, new: dict[str, Tensor]) -> None:
        for name, value in new.items():
            buffer = self.get_buffer(name)
            buffer.copy_(torch.where(count > 0, value, buffer))

    def with_row(self, window: Tensor, row: Tensor) -> Tensor:
        """Return the window (window, C) without its oldest row and with ``row`` (C,) appended."""
        return torch.cat([window[1:], row.to(window.dtype).unsqueeze(0)])

    def uses_window(self) -> Tensor:
        """Whether the next batch, of update t, uses averages over the window: t > window and t >= warmup_updates."""
        return (self.num_updates >= self.window) & (self.num_updates + 1 >= self.warmup_updates)
