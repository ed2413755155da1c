"""Running quadratic mean of each channel, by which a family of norms divides at evaluation."""

from typing import ClassVar

import torch
from torch import Tensor

from normplugins.norms.group_scaling import refuse_group_scaling
from normplugins.norms.settings import RunningSettings
from normplugins.norms.statistics import RunningNorm


class QuadraticMeanNorm(RunningNorm):
    """Base class: at evaluation divides by sqrt(running_phi + eps), whose ``running_phi`` (C,) starts at 1."""

    statistics: ClassVar[tuple[str, ...]] = ("running_phi",)
    running_phi: Tensor

    def __init__(self, dim: int, settings: RunningSettings, *not_deferrable: str) -> None:
        super().__init__(dim, settings, *not_deferrable)
        self.add_statistic("running_phi", 1.0)

    def fixed_affine(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift (C,), in float64, of the evaluation; raise ValueError with group scaling."""
        refuse_group_scaling(getattr(self, "group_scaling", False))
        return self.weight.double() * torch.rsqrt(self.running_phi.double() + self.eps), self.bias.double()
