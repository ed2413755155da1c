"""PN-V (arXiv 2003.07845, Section 4): BatchNorm without centring, and with the quadratic mean as the variance.

    psi_B^2 = mean over the batch's tokens of x^2,    y = weight x / sqrt(psi_B^2 + eps) + bias

in training, with the exact gradient through psi_B. At evaluation psi_B^2 is replaced by its running mean

    psi^2 <- alpha psi^2 + (1 - alpha) psi_B^2.

With ``group_scaling`` each token's channel groups are first divided by their root mean square, as in ``pn``.
Fast code: ``backends/cpu/forwards.py`` and ``backends/triton/forwards.py``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from normplugins.norms.backends.dispatch import Dispatched
from normplugins.norms.group_scaling import scale_groups
from normplugins.norms.quadratic_mean import QuadraticMeanNorm
from normplugins.norms.registry import register_norm
from normplugins.norms.settings import EpsSettings, GroupScalingSettings, KernelSettings, RunningSettings, setting
from normplugins.norms.tokens import count_tokens, mean_over, token_rows, zero_padding


@dataclass(frozen=True)
class PowerNormVSettings(GroupScalingSettings, KernelSettings, RunningSettings, EpsSettings):
    """Settings of ``pnv``."""

    alpha_fwd: float = setting(0.9, "decay of the running quadratic mean psi^2", minimum=0, below=1)


@register_norm("pnv", PowerNormVSettings)
class PowerNormV(Dispatched, QuadraticMeanNorm):
    """PN-V: the quadratic mean of each channel over the batch's real tokens, exact backward.

    ``weight`` and ``bias`` (C,) start at 1 and 0. Buffer ``running_phi`` (C,) is psi^2 and starts at 1. The output at
    padding is 0.
    """

    alpha_fwd: float
    group_scaling: bool
    groups: int

    @property
    def momentum(self) -> float:  # type: ignore[override]
        """The weight of the batch in psi^2."""
        return 1 - self.alpha_fwd

    def plain(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Normalize x (T, B, C) or (N, C); in training, update the running quadratic mean."""
        rows, real = token_rows(x, padding_mask, self.dim)
        rows = zero_padding(rows, real)
        if self.group_scaling:
            rows = scale_groups(rows, self.groups, self.eps)
        phi = self.running_phi
        if self.training:
            count = count_tokens(rows, real)
            count, phi = self.synchronize(count, mean_over(rows.square(), count))
            self.update_running_stats(count, phi)
        y = zero_padding(self.affine(rows, torch.rsqrt(phi + self.eps)), real)
        return y.view(x.shape).to(x.dtype)
