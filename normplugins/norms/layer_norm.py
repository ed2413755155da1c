"""LayerNorm: y = weight (x - mean) / sqrt(var + eps) + bias, over each token's own channels (arXiv 1607.06450)."""

import torch.nn.functional as F
from torch import Tensor, nn

from normplugins.norms.registry import register_norm
from normplugins.norms.settings import EpsSettings


@register_norm("ln", EpsSettings)
class LayerNorm(nn.LayerNorm):
    """LayerNorm over each token's channels.

    ``weight`` and ``bias`` (C,) start at 1 and 0.
    """

    def __init__(self, dim: int, settings: EpsSettings) -> None:
        super().__init__(dim, eps=settings.eps)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Normalize x (..., C). Tokens are independent, so the padding mask is not read."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps).to(x.dtype)
