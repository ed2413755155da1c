"""Batch Renormalization (arXiv 1702.03275): BatchNorm, corrected toward the running statistics within bounds.

With mu_B and sigma_B = sqrt(var_B + eps) of the batch's tokens, and the running mu and sigma,

    r = clip(sigma_B / sigma, 1/r_max, r_max)        d = clip((mu_B - mu) / sigma, -d_max, d_max)
    y = weight ((x - mu_B) / sigma_B r + d) + bias

in training, with no gradient through r and d. While neither bound is reached, the output is the same as with the
running statistics, which are used at evaluation. After the forward, mu and sigma move by ``momentum`` toward mu_B and
sigma_B. In the first ``warmup_updates`` updates r = 1 and d = 0, as in BatchNorm; the bounds then grow linearly.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from normplugins.norms.batch_moments import BatchMomentsNorm
from normplugins.norms.registry import register_norm
from normplugins.norms.settings import EpsSettings, RunningSettings, setting
from normplugins.norms.statistics import recomputing
from normplugins.norms.tokens import token_rows, zero_padding
from normplugins.norms.torch_compile import opaque_copy


@dataclass(frozen=True)
class BatchRenormSettings(RunningSettings, EpsSettings):
    """Settings of ``renorm``; the defaults are those of the paper's experiments."""

    momentum: float = setting(0.01, "weight of the batch in the running mean and variance", above=0, maximum=1)
    warmup_updates: int = setting(5000, "number of initial updates in which the norm is BatchNorm", minimum=0)
    r_max: float = setting(3.0, "final bound of the scale's correction", minimum=1)
    d_max: float = setting(5.0, "final bound of the shift's correction, in standard deviations", minimum=0)
    r_max_updates: int = setting(40000, "the update from which the scale's bound is r_max", minimum=0)
    d_max_updates: int = setting(25000, "the update from which the shift's bound is d_max", minimum=0)


@register_norm("renorm", BatchRenormSettings)
class BatchRenorm(BatchMomentsNorm):
    """Batch Renormalization of each channel over the batch's real tokens.

    ``weight`` and ``bias`` (C,) start at 1 and 0. Buffers ``running_mean`` and ``running_var`` (C,), which is sigma^2 -
    eps, start at 0 and 1; ``num_updates`` counts their updates. The output at padding is 0.
    """

    num_updates: Tensor
    warmup_updates: int
    r_max: float
    d_max: float
    r_max_updates: int
    d_max_updates: int

    def __init__(self, dim: int, settings: BatchRenormSettings) -> None:
        super().__init__(dim, settings)
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self._correction: tuple[Tensor, Tensor] | None = None  # r and d of the latest forward, for its recomputation

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Normalize x (T, B, C) or (N, C); in training, update the running statistics."""
        rows, real = token_rows(x, padding_mask, self.dim)
        rows = zero_padding(rows, real)
        if self.training:
            centred, tokens, count, mean, var = self.centre(rows, real)
            r, d = self._corrections(mean.detach(), var.detach())
            self.update_running_stats(tokens, count, mean, var)
            z = centred * (torch.rsqrt(var + self.eps) * r) + d
        else:
            z = (rows - self.running_mean) * torch.rsqrt(self.running_var + self.eps)
        y = zero_padding(torch.addcmul(self.bias.to(rows.dtype), z.to(rows.dtype), self.weight.to(rows.dtype)), real)
        return y.view(x.shape).to(x.dtype)

    def _corrections(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return r and d (C,)."""
        if recomputing() and self._correction is not None:
            return self._correction
        sigma = torch.sqrt(self.running_var + self.eps)
        r_max = 1 + (self.r_max - 1) * self._progress(self.r_max_updates)
        d_max = self.d_max * self._progress(self.d_max_updates)
        r = (torch.sqrt(var + self.eps) / sigma).clamp(1 / r_max, r_max)
        d = ((mean - self.running_mean) / sigma).clamp(-d_max, d_max)
        self._correction = opaque_copy(r), opaque_copy(d)
        return self._correction

    def _progress(self, end: int) -> Tensor:
        """Return a bound's progress, a scalar tensor: linear from 0 at the end of the warmup to 1 at update ``end``."""
        begin = self.warmup_updates
        done = (self.num_updates - begin).to(self.running_var.dtype) / max(end - begin, 1)
        return torch.where(self.num_updates < begin, 0, done if end > begin else torch.ones_like(done)).clamp(0, 1)

    def step(self, count: Tensor, *moments: Tensor) -> None:
        """Update mu, sigma and the number of updates with a batch's moments, if the batch has a token."""
        _, mean, var = moments
        dtype = self.running_var.dtype
        sigma = torch.sqrt(self.running_var + self.eps).lerp(torch.sqrt(var + self.eps).to(dtype), self.momentum)
        self.running_var.copy_(torch.where(count > 0, (sigma.square() - self.eps).clamp(min=0), self.running_var))
        self.running_mean.lerp_(mean.to(dtype), self.momentum * (count > 0).to(dtype))
        self.num_updates.add_(count > 0)
