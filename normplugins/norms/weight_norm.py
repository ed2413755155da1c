"""Weight normalization with mean-only batch normalization (arXiv 1602.07868).

    w = g v / ‖v‖  for the weights of each output of a linear map        y = x - mu + bias  at the norm's position

mu is the mean over the batch's real tokens in training, and at evaluation its running mean

    running <- (1 - momentum) running + momentum batch.

The paper subtracts the mean of w x. Here, in pre-norm, x is centred just before the map, which is equivalent:
W (x - mean(x)) = W x - mean(W x). The norm does not change the scale of x; g must learn it.

A batch of one token is its own mean, so its output is the bias.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from normplugins.norms.registry import register_norm
from normplugins.norms.settings import RunningSettings, setting
from normplugins.norms.statistics import RunningNorm
from normplugins.norms.tokens import count_tokens, mean_over, token_rows, zero_padding


@dataclass(frozen=True)
class MeanOnlyBatchNormSettings(RunningSettings):
    """Settings of ``weight``."""

    momentum: float = setting(0.1, "weight of the batch in the running mean", above=0, maximum=1)


@register_norm("weight", MeanOnlyBatchNormSettings)
class MeanOnlyBatchNorm(RunningNorm):
    """Weight-normalized linear maps with mean-only BatchNorm over the batch's real tokens.

    Parameter ``bias`` and buffer ``running_mean`` (C,) start at 0. The output at padding is 0.
    """

    statistics: ClassVar[tuple[str, ...]] = ("running_mean",)
    running_mean: Tensor

    def __init__(self, dim: int, settings: MeanOnlyBatchNormSettings) -> None:
        super().__init__(dim, settings)
        del self.weight  # g is the scale of each linear map
        self.add_statistic("running_mean", 0.0)

    @staticmethod
    def wrap_linears(sublayer: nn.Module) -> None:
        """Reparametrize the weights of each linear map of ``sublayer`` as g v / ‖v‖, without changing their values."""
        for module in list(sublayer.modules()):
            if isinstance(module, nn.Linear):
                weight_norm(module)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Centre x (T, B, C) or (N, C); in training, update the running mean."""
        rows, real = token_rows(x, padding_mask, self.dim)
        rows = zero_padding(rows, real)
        mean = self.running_mean.to(rows.dtype)
        if self.training:
            count = count_tokens(rows, real)
            count, mean = self.synchronize(count, mean_over(rows, count))
            self.update_running_stats(count, mean)
        y = zero_padding(rows - mean + self.bias.to(rows.dtype), real)
        return y.view(x.shape).to(x.dtype)

    def fixed_affine(self) -> tuple[Tensor, Tensor]:
        """Return the scale, which is 1, and the shift (C,) applied at evaluation, in float64."""
        shift = self.bias.double() - self.running_mean.double()
        return shift.new_ones(self.dim), shift
