"""RMSNorm: y = weight x / sqrt(mean(x^2) + eps), over each token's own channels (arXiv 1910.07467).

With ``groups`` > 1 the mean is over each group of channels: the group scaling of ``pn`` alone, without statistics.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normplugins.norms.backends.dispatch import fast_path
from normplugins.norms.deferred_residual import DeferredResidual, materialize
from normplugins.norms.group_scaling import check_groups, scale_groups
from normplugins.norms.registry import register_norm


@register_norm("rms")
class RMSNorm(nn.RMSNorm):
    """RMSNorm over the last dimension, or its groups; ``weight`` (C,) from 1, and, as in the paper, no bias.

    Raises ValueError when the groups do not divide dim.
    """

    accepts_deferred = True

    def __init__(self, dim: int, *, eps: float = 1e-5, groups: int = 1, kernels: str = "auto") -> None:
        super().__init__(dim, eps=eps)
        check_groups(dim, groups)
        self.groups, self.kernels = groups, kernels

    def forward(self, x: Tensor | DeferredResidual, padding_mask: Tensor | None = None) -> Tensor:
        """Normalize x (..., C), or such a sum. No token sees another, so the padding mask is not read."""
        if fast := fast_path(self.kernels, x, self.training):
            y: Tensor = fast.rms_norm(self, x, padding_mask)
            return y
        return self.plain(materialize(x))

    def plain(self, x: Tensor) -> Tensor:
        """Do what ``forward`` does, by PyTorch."""
        if self.groups > 1:
            rows = x.reshape(-1, x.size(-1)).to(torch.promote_types(x.dtype, torch.float32))
            y = scale_groups(rows, self.groups, self.eps or 0.0) * self.weight.to(rows.dtype)
            return y.view(x.shape).to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        """Show PyTorch's settings and the groups."""
        return f"{super().extra_repr()}, groups={self.groups}"
