"""Moving Average Batch Normalization (arXiv 2001.06838): averages over the last batches, forward and backward.

    phi = mean over the window of mean(x^2)        z = x / sqrt(phi + eps)
    r = clip(sqrt(phi + eps) / sqrt(running phi + eps), 1/5, 5)        y = weight r z + bias
    running phi <- (1 - momentum) running phi + momentum phi

The backward of z uses m, the average of mean(g z) over the window, in place of the batch's own mean(g z):

    g = weight r dL/dy      dL/dx = (g - m z) / sqrt(phi + eps)

Before update ``warmup_updates``, and in the first ``window`` updates, phi and m are the batch's own mean(x^2) and
mean(g z). In the first max(``warmup_updates``, ``ratio_from``, ``window``) updates, r = 1. At evaluation phi is the
running phi. The paper also centres the weights of the convolution in front of the norm. This is left out: in a pre- or
post-norm transformer no linear map stands directly in front of a norm (with ``sandwich`` and ``peri`` one does).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from normplugins.norms.moving_window import Average, WindowNorm, WindowSettings
from normplugins.norms.registry import register_norm
from normplugins.norms.settings import setting


@dataclass(frozen=True)
class MovingAverageSettings(WindowSettings):
    """Settings of ``mabn``; the defaults are those of the released code."""

    window: int = setting(16, "batches whose statistics are averaged", minimum=1)
    momentum: float = setting(0.02, "weight of the batch in the running quadratic mean", above=0, maximum=1)
    warmup_updates: int = setting(
        100, "before this update, and in the first window updates, a batch's own statistics are used", minimum=0
    )


@register_norm("mabn", MovingAverageSettings, summary="Moving average BN: mean squares averaged over the last batches.")
class MovingAverageBatchNorm(WindowNorm):
    """Moving Average Batch Normalization of each channel; with the buffers of :class:`WindowNorm`."""

    ratio_in_forward: ClassVar[bool] = True
    settings: MovingAverageSettings

    def average(self, phi: Tensor) -> Average:
        """Return the mean of the window including this batch, or in the warmup the batch's own quadratic mean."""
        smooth = self.uses_window()
        mean = self.with_row(self.window_phi, phi).mean(0)
        return Average(torch.where(smooth, mean, phi), phi, smooth, torch.zeros_like(smooth))

    def average_projection(self, own: Tensor, smooth: Tensor, skipped: Tensor) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """Return m (C,) and the new window."""
        window = self.with_row(self.window_gz, own)
        return torch.where(smooth, window.mean(0), own), {"window_gz": window}
