"""PN-V (arXiv 2003.07845, Section 4): BatchNorm without the mean, and with the quadratic mean for the variance.

    psi_B^2 = mean over the batch's tokens of x^2,    y = weight x / sqrt(psi_B^2 + eps) + bias

in training, with the exact gradient through psi_B; at evaluation psi_B^2 is replaced by its running mean

    psi^2 <- alpha psi^2 + (1 - alpha) psi_B^2.

With ``group_scaling`` each token's channel groups are first divided by their root mean square, as ``pn``'s are.
"""

from typing import ClassVar

import torch
from torch import Tensor

from normplugins.norms.backends.dispatch import fast_path
from normplugins.norms.deferred_residual import DeferredResidual, materialize
from normplugins.norms.group_scaling import check_groups, refuse_group_scaling, scale_groups
from normplugins.norms.registry import register_norm
from normplugins.norms.statistics import RunningNorm, count_tokens, mean_over, token_rows, zero_padding


@register_norm("pnv")
class PowerNormV(RunningNorm):
    """PN-V of ``dim`` channels over the real tokens of (T, B, C) or (N, C); settings as in ``NormConfig``.

    Buffer ``running_phi`` (C,) is psi^2, from 1. Padding's output is 0. Raises ValueError when the groups of a group
    scaling do not divide dim.
    """

    statistics: ClassVar[tuple[str, ...]] = ("running_phi",)
    accepts_deferred = True
    running_phi: Tensor

    def __init__(
        self,
        dim: int,
        *,
        eps: float = 1e-5,
        groups: int = 4,
        alpha_fwd: float = 0.9,
        group_scaling: bool = False,
        sync: str = "none",
        per_update: bool = False,
        kernels: str = "auto",
    ) -> None:
        super().__init__(dim, eps, sync, per_update, kernels)
        check_groups(dim, groups if group_scaling else 1)
        self.groups, self.alpha_fwd, self.group_scaling = groups, alpha_fwd, group_scaling
        self.momentum = 1 - alpha_fwd
        self.add_statistic("running_phi", 1.0)

    def forward(self, x: Tensor | DeferredResidual, padding_mask: Tensor | None = None) -> Tensor:
        """Normalize x (T, B, C) or (N, C), or such a sum; training counts the batch in the running quadratic mean."""
        if fast := fast_path(self.kernels, x, self.training):
            y: Tensor = fast.power_norm_v(self, x, padding_mask)
            return y
        return self.plain(materialize(x), padding_mask)

    def plain(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Do what ``forward`` does, by the equations."""
        rows, real = token_rows(x, padding_mask, self.dim)
        rows = zero_padding(rows, real)
        if self.group_scaling:
            rows = scale_groups(rows, self.groups, self.eps)
        phi = self.running_phi
        if self.training:
            count = count_tokens(rows, real)
            count, phi = self.over_processes(count, mean_over(rows.square(), count))
            self.update_running_stats(count, phi)
        y = zero_padding(self.affine(rows, torch.rsqrt(phi + self.eps)), real)
        return y.view(x.shape).to(x.dtype)

    def fixed_affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (C,), in float64, of what evaluation does to a token; ValueError with group scaling."""
        refuse_group_scaling(self.group_scaling)
        return self.weight.double() * torch.rsqrt(self.running_phi.double() + self.eps), self.bias.double()
