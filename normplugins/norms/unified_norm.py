"""Unified Normalization (arXiv 2208.01313), as released: the geometric mean of the last batches' quadratic means.

    phi = exp(mean over the window of log mean(x^2))        y = weight x / sqrt(phi + eps) + bias
    running phi <- alpha_fwd running phi + (1 - alpha_fwd) phi

The backward of z = x / sqrt(phi + eps) uses nu, a smoothed mean(g z), in place of the batch's own mean(g z):

    g = weight dL/dy sqrt(phi + eps) / sqrt(running phi + eps)        nu <- alpha_bkw nu + (1 - alpha_bkw) m
    dL/dx = (g - nu z) / sqrt(phi + eps)        m = mean over the window of the batches' mean(g z)

Before update ``warmup_updates``, and in the first ``window`` updates, phi and m are the batch's own mean(x^2) and
mean(g z). In the first max(``warmup_updates``, ``ratio_from``, ``window``) updates, g = weight dL/dy. At evaluation phi
is the running phi, so the norm can be folded into the next linear layer. The released backward also counts padding;
this one does not. Re-estimated statistics (``reestimate``) are the arithmetic mean of x^2 over all tokens, which is at
least the geometric mean of training.

With ``outlier_filtration`` a batch is an outlier if the window's arithmetic mean exceeds its geometric mean in some
channel by more than ``window`` times v. Here v is the variance of the square roots of all numbers in the previous
window. An outlier is normalized by its own statistics, and its backward uses its own mean(g z) in place of nu. The
windows receive the running values in place of its own. The released script for translation leaves the filtration off.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from normplugins.norms.moving_window import Average, WindowNorm, WindowSettings
from normplugins.norms.registry import register_norm
from normplugins.norms.settings import setting


@dataclass(frozen=True)
class UnifiedNormSettings(WindowSettings):
    """Settings of ``un``; the defaults are those of the released script for IWSLT14."""

    alpha_fwd: float = setting(0.9, "decay of the running quadratic mean", minimum=0, below=1)
    alpha_bkw: float = setting(0.9, "decay of nu, the running quantity of the backward", minimum=0, below=1)
    warmup_updates: int = setting(
        4000, "before this update, and in the first window updates, a batch's own statistics are used", minimum=0
    )
    outlier_filtration: bool = setting(False, "a batch far from the window is normalized by its own statistics")


@register_norm("un", UnifiedNormSettings, summary="Unified Normalization: geometric means over the last batches.")
class UnifiedNorm(WindowNorm):
    """Unified Normalization of each channel; buffers as in :class:`WindowNorm`, and ``ema_gz`` (C,), which is nu."""

    statistics: ClassVar[tuple[str, ...]] = (*WindowNorm.statistics, "ema_gz")
    ratio_in_forward: ClassVar[bool] = False
    ema_gz: Tensor
    alpha_fwd: float
    alpha_bkw: float
    outlier_filtration: bool

    def __init__(self, dim: int, settings: UnifiedNormSettings) -> None:
        super().__init__(dim, settings)
        self.add_statistic("ema_gz", 0.0)

    @property
    def momentum(self) -> float:  # type: ignore[override]
        """The weight of the newest average in the running quadratic mean."""
        return 1 - self.alpha_fwd

    def average(self, phi: Tensor) -> Average:
        """Return the window's geometric mean, or the batch's own mean square in the warmup or for an outlier."""
        window = self.with_row(self.window_phi, phi)
        geometric = window.log().mean(0).exp()
        skipped = torch.full_like(self.num_updates, self.window == 1, dtype=torch.bool)  # as released: no averages
        if self.outlier_filtration:
            spread = self.window_phi.sqrt().var() * self.window
            outlier = ((window.mean(0) - geometric) > spread).any()
            skipped = skipped | (outlier & (self.num_updates + 1 >= self.warmup_updates))
        smooth = self.uses_window() & ~skipped
        row = torch.where(skipped, self.running_phi, phi) if self.outlier_filtration else phi
        return Average(torch.where(smooth, geometric, phi), row, smooth, skipped)

    def average_projection(self, own: Tensor, smooth: Tensor, skipped: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return nu (C,), or m for an outlier, and the new window and nu."""
        window = self.with_row(self.window_gz, torch.where(skipped, self.ema_gz, own))
        m = torch.where(smooth, window.mean(0), own)
        nu = self.ema_gz.lerp(m, 1 - self.alpha_bkw)
        return torch.where(skipped, m, nu), {"window_gz": window, "ema_gz": nu}
