"""Running mean and variance of each channel, pooled over processes and micro-batches."""

from typing import ClassVar

import torch
from torch import Tensor

from normplugins.norms.group_scaling import refuse_group_scaling
from normplugins.norms.settings import RunningSettings
from normplugins.norms.statistics import RunningNorm
from normplugins.norms.tokens import count_tokens, mean_over, zero_padding


class BatchMomentsNorm(RunningNorm):
    """Base class of the norms with ``running_mean`` and ``running_var`` (C,), which start at 0 and 1.

    A batch's moments are (tokens, count, mean (C,), var (C,)). The mean is over the real tokens. The biased variance is
    over ``count`` positions: the real tokens and, in a norm that fills padding with the mean, the padding.
    """

    statistics: ClassVar[tuple[str, ...]] = ("running_mean", "running_var")
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, settings: RunningSettings) -> None:
        super().__init__(dim, settings)
        self.add_statistic("running_mean", 0.0)
        self.add_statistic("running_var", 1.0)

    def centre(
        self, rows: Tensor, real: Tensor | None, filled: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Subtract the mean from the rows (N, C); return them, tokens, count, mean (C,) and biased variance (C,).

        With ``sync="batch"`` the moments are over the tokens of all processes. Padding must be zero in the rows or, if
        ``filled``, equal to the mean of the tokens, and is counted only if ``filled``. In the returned rows padding is
        zero, up to rounding if it was filled.
        """
        tokens, counted = count_tokens(rows, real), None if filled else real
        count = count_tokens(rows, counted)
        mean = mean_over(rows, count)
        centred = zero_padding(rows - mean, counted)
        var = mean_over(centred.square(), count)
        if self.synchronizes:
            tokens, count, mean, var = self.synchronize(tokens, count, mean, var)
            centred = zero_padding(rows - mean, real)
        return centred, tokens, count, mean, var

    def fixed_affine(self) -> tuple[Tensor, Tensor]:
        """Return the scale and shift (C,) applied at evaluation, in float64; raise ValueError with group scaling."""
        refuse_group_scaling(getattr(self, "group_scaling", False))
        scale = self.weight.double() * torch.rsqrt(self.running_var.double() + self.eps)
        return scale, self.bias.double() - scale * self.running_mean.double()

    def batch_statistics(self, tokens: Tensor, *moments: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Return the mean and the biased variance."""
        return moments[1:]

    def _sums(self, tokens: Tensor, *moments: Tensor) -> Tensor:
        count, mean, var = moments
        return torch.cat([tokens.view(1), count.view(1), tokens * mean, count * var + tokens * mean.square()])

    def _moments(self, sums: Tensor) -> tuple[Tensor, ...]:
        tokens, count, (total, squares) = sums[0], sums[1], sums[2:].chunk(2)
        mean = total / tokens.clamp(min=1)
        return tokens, count, mean, (squares - tokens * mean.square()).clamp(min=0) / count.clamp(min=1)
