"""LayerNorm: y = weight (x - mean) / sqrt(var + eps) + bias, over each token's own channels (arXiv 1607.06450)."""

import torch.nn.functional as F
from torch import Tensor, nn

from normplugins.norms.registry import register_norm


@register_norm("ln")
class LayerNorm(nn.LayerNorm):
    """PyTorch's LayerNorm over the last dimension, with the forward that every norm here has."""

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        super().__init__(dim, eps=eps)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Normalize x (..., C). No token sees another, so the padding mask is not read."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps).to(x.dtype)
