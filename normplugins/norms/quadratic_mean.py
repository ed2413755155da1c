"""The running quadratic mean of each channel; several norms divide by its root at evaluation."""

from typing import ClassVar

import torch
from torch import Tensor

from normplugins.norms.group_scaling import refuse_group_scaling
from normplugins.norms.settings import RunningSettings
from normplugins.norms.statistics import RunningNorm


class QuadraticMeanNorm(RunningNorm):
    """Base class of norms that divide by sqrt(running_phi + eps) at evaluation; ``running_phi`` (C,) starts at 1."""

    statistics: ClassVar[tuple[str, ...]] = ("running_phi",)
    running_phi: Tensor

    def __init__(self, dim: int, settings: RunningSettings) -> None:
        super().__init__(dim, settings)
        self.add_statistic("running_phi", 1.0)

    def fixed_affine(self) -> tuple[Tensor, Tensor]:
        """Return the scale and shift (C,) applied at evaluation, in float64; raise ValueError with group scaling."""
        refuse_group_scaling(getattr(self, "group_scaling", False))
        return self.weight.double() * torch.rsqrt(self.running_phi.double() + self.eps), self.bias.double()
