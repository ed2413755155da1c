"""LayerNorm: y = weight (x - mean) / sqrt(var + eps) + bias, over each token's own channels (arXiv 1607.06450)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from normplugins.norms.base import Norm, check_input, in_wider_dtype
from normplugins.norms.registry import register_norm
from normplugins.norms.settings import EpsSettings


@register_norm("ln", EpsSettings)
class LayerNorm(Norm):
    """LayerNorm over each token's channels."""

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Normalize x (..., C). Tokens are independent, so the padding mask is not read."""
        check_input(x, self.dim, flat=False)
        if x.is_cpu and x.dtype == torch.bfloat16 and self.weight.dtype == torch.float32:  # PyTorch mixes only these
            return F.layer_norm(x, (self.dim,), self.weight, self.bias, self.eps)
        rows, weight, bias = in_wider_dtype(x, self.weight, self.bias)
        return F.layer_norm(rows, (self.dim,), weight, bias, self.eps).to(x.dtype)
