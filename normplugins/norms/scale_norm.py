"""ScaleNorm (arXiv 1910.05895): y = g x / ‖x‖, which projects each token onto a sphere of learned radius g.

‖x‖ is sqrt(C (mean(x^2) + eps)) over a token's C channels, so ``eps`` means the same as in the other norms.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normplugins.norms.base import Norm, check_input, in_wider_dtype
from normplugins.norms.registry import register_norm
from normplugins.norms.settings import EpsSettings


@register_norm("scale", EpsSettings)
class ScaleNorm(Norm):
    """ScaleNorm over each token's channels.

    ``weight`` (1,) is g. It starts at sqrt(dim), where the norm equals RMSNorm.
    """

    def __init__(self, dim: int, settings: EpsSettings) -> None:
        super().__init__(dim, settings)
        del self.bias
        self.weight = nn.Parameter(torch.full((1,), math.sqrt(dim)))

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Normalize x (..., C). Tokens are independent, so the padding mask is not read."""
        check_input(x, self.dim, flat=False)
        rows, weight = in_wider_dtype(x, self.weight / math.sqrt(self.dim))
        return F.rms_norm(rows, (self.dim,), weight.expand(self.dim), self.eps).to(x.dtype)
