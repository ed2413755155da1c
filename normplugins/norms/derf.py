"""Derf (arXiv 2512.10938): y = weight erf(alpha x + shift) + bias, with learned scalars and without statistics."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normplugins.norms.base import Norm, check_input
from normplugins.norms.registry import register_norm
from normplugins.norms.settings import setting


@dataclass(frozen=True)
class DerfSettings:
    """Settings of ``derf``."""

    alpha_init: float = setting(0.5, "initial value of alpha, the scale of the function's argument", above=0)
    shift_init: float = setting(0.0, "initial value of the shift of the function's argument")


@register_norm("derf", DerfSettings)
class Derf(Norm):
    """The error function of each channel of each token.

    ``weight`` and ``bias`` (C,) start at 1 and 0, ``alpha`` and ``shift`` (1,) at the settings.
    """

    def __init__(self, dim: int, settings: DerfSettings) -> None:
        super().__init__(dim, settings)
        self.alpha = nn.Parameter(torch.full((1,), float(settings.alpha_init)))
        self.shift = nn.Parameter(torch.full((1,), float(settings.shift_init)))

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Apply the function to x (..., C). Tokens are independent, so the padding mask is not read."""
        check_input(x, self.dim, flat=False)
        y = torch.erf(self.alpha * x.to(torch.promote_types(x.dtype, torch.float32)) + self.shift)
        return torch.addcmul(self.bias, y, self.weight).to(x.dtype)
