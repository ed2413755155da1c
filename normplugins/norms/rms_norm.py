"""RMSNorm: y = weight x / sqrt(mean(x^2) + eps), over each token's own channels (arXiv 1910.07467)."""

import torch.nn.functional as F
from torch import Tensor, nn

from normplugins.norms.config import register_norm
from normplugins.norms.fast_path import fast_path
from normplugins.norms.residual import Sum, added_up


@register_norm("rms")
class RMSNorm(nn.RMSNorm):
    """PyTorch's RMSNorm over the last dimension; ``weight`` (C,) from 1, and, as in the paper, no bias."""

    takes_sums = True

    def __init__(self, dim: int, *, eps: float = 1e-5, kernels: str = "auto") -> None:
        super().__init__(dim, eps=eps)
        self.kernels = kernels

    def forward(self, x: Tensor | Sum, padding_mask: Tensor | None = None) -> Tensor:
        """Normalize x (..., C), or such a sum. No token sees another, so the padding mask is not read."""
        if fast := fast_path(self.kernels, x, self.training):
            y: Tensor = fast.rms_norm(self, x, padding_mask)
            return y
        return self.plain(added_up(x))

    def plain(self, x: Tensor) -> Tensor:
        """Do what ``forward`` does, by PyTorch."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps).to(x.dtype)
