"""Dynamic Tanh (arXiv 2503.10622): y = weight tanh(alpha x) + bias, with a learned scalar and without statistics."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normplugins.norms.base import Norm, check_input
from normplugins.norms.registry import register_norm
from normplugins.norms.settings import setting


@dataclass(frozen=True)
class DynamicTanhSettings:
    """Settings of ``dyt``."""

    alpha_init: float = setting(0.5, "initial value of alpha, the scale of the function's argument", above=0)


@register_norm("dyt", DynamicTanhSettings)
class DynamicTanh(Norm):
    """Dynamic Tanh of each channel of each token.

    ``weight`` and ``bias`` (C,) start at 1 and 0, ``alpha`` (1,) at the setting ``alpha_init``.
    """

    def __init__(self, dim: int, settings: DynamicTanhSettings) -> None:
        super().__init__(dim, settings)
        self.alpha = nn.Parameter(torch.full((1,), float(settings.alpha_init)))

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Apply the function to x (..., C). Tokens are independent, so the padding mask is not read."""
        check_input(x, self.dim, flat=False)
        y = torch.tanh(self.alpha * x.to(torch.promote_types(x.dtype, torch.float32)))
        return torch.addcmul(self.bias, y, self.weight).to(x.dtype)
