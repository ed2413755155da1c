"""Weight normalization with mean-only batch normalization (arXiv 1602.07868).

    w = g v / ‖v‖  for the weights of each output of a linear map        y = x - mu + bias  in the norm's own place

mu is the mean over the batch's real tokens in training, and at evaluation its running mean

    running <- (1 - momentum) running + momentum batch.

The paper subtracts the mean of w x; here x is centred just before the map, pre-norm, which is the same:
W (x - mean(x)) = W x - mean(W x). What the norm keeps of x's scale, g must learn.

One token alone is its own mean, so its output is the bias.
"""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from normplugins.norms.registry import register_norm
from normplugins.norms.statistics import RunningNorm, count_tokens, mean_over, token_rows, zero_padding


@register_norm("weight")
class MeanOnlyBatchNorm(RunningNorm):
    """Mean-only BatchNorm of ``dim`` channels over real tokens, which weight-normalizes the maps of its sublayer.

    Parameter ``bias`` (C,), from 0; buffer ``running_mean`` (C,), from 0. Padding's output is 0.
    """

    statistics: ClassVar[tuple[str, ...]] = ("running_mean",)
    running_mean: Tensor

    def __init__(self, dim: int, *, momentum: float = 0.1, sync: str = "none", per_update: bool = False) -> None:
        super().__init__(dim, 0.0, sync, per_update)
        del self.weight, self.eps  # the scale is each map's g, and nothing is divided by
        self.momentum = momentum
        self.add_statistic("running_mean", 0.0)

    @staticmethod
    def wrap_linears(sublayer: nn.Module) -> None:
        """Give each linear map of ``sublayer`` weights g v / ‖v‖, with the values that it has; its bias stays."""
        for module in list(sublayer.modules()):
            if isinstance(module, nn.Linear):
                weight_norm(module)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Centre x (T, B, C) or (N, C); in training, count the batch in the running mean."""
        rows, real = token_rows(x, padding_mask, self.dim)
        rows = zero_padding(rows, real)
        mean = self.running_mean.to(rows.dtype)
        if self.training:
            count = count_tokens(rows, real)
            count, mean = self.over_processes(count, mean_over(rows, count))
            self.update_running_stats(count, mean)
        y = zero_padding(rows - mean + self.bias.to(rows.dtype), real)
        return y.view(x.shape).to(x.dtype)

    def fixed_affine(self) -> tuple[Tensor, Tensor]:
        """Scale, which is 1, and shift (C,), in float64, of what evaluation does to a token."""
        shift = self.bias.double() - self.running_mean.double()
        return shift.new_ones(self.dim), shift
