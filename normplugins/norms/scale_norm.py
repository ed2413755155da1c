"""ScaleNorm: y = g x / ‖x‖, each token's channels on a sphere whose radius is learnt (arXiv 1910.05895).

‖x‖ is sqrt(C (mean(x^2) + eps)) over a token's C channels, so that ``eps`` means what it means in every other norm.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normplugins.norms.registry import register_norm


@register_norm("scale")
class ScaleNorm(nn.Module):
    """ScaleNorm of ``dim`` channels; ``weight`` (1,) is g, from sqrt(dim): at first it is RMSNorm."""

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.full((1,), math.sqrt(dim)))

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Normalize x (..., C). No token sees another, so the padding mask is not read."""
        weight = (self.weight / math.sqrt(self.dim)).to(x.dtype).expand(self.dim)
        return F.rms_norm(x, (self.dim,), weight, self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the settings: ``512, eps=1e-05``."""
        return f"{self.dim}, eps={self.eps}"
