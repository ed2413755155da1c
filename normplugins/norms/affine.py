"""Affine: y = weight x + bias, channel by channel, without any statistics (Aff of ResMLP, arXiv 2105.03404)."""

import torch
from torch import Tensor, nn

from normplugins.norms.registry import register_norm


@register_norm("affine")
class Affine(nn.Module):
    """Scale and shift of ``dim`` channels; ``weight`` and ``bias`` (C,), from 1 and 0.

    It is also what is left of a norm whose statistics are fixed, where no linear map can take it up.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Scale and shift x (..., C). No token sees another, so the padding mask is not read."""
        return torch.addcmul(self.bias.to(x.dtype), x, self.weight.to(x.dtype))

    def fixed_affine(self) -> tuple[Tensor, Tensor]:
        """Its weight and bias, in float64."""
        return self.weight.double(), self.bias.double()

    def extra_repr(self) -> str:
        """Show the width: ``512``."""
        return str(self.dim)
