"""Affine: y = weight x + bias, channel by channel, without any statistics (Aff of ResMLP, arXiv 2105.03404)."""

import torch
from torch import Tensor

from normplugins.norms.base import Norm, check_input, in_wider_dtype
from normplugins.norms.registry import register_norm


@register_norm("affine")
class Affine(Norm):
    """A learnt scale and shift of each channel, without statistics.

    ``normplugins fold`` puts it in place of a norm with fixed statistics that no linear map can absorb.
    """

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Scale and shift x (..., C). Tokens are independent, so the padding mask is not read."""
        check_input(x, self.dim, flat=False)
        rows, weight, bias = in_wider_dtype(x, self.weight, self.bias)
        return torch.addcmul(bias, rows, weight).to(x.dtype)

    def fixed_affine(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias in float64."""
        return self.weight.double(), self.bias.double()
