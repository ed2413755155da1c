"""BatchNorm over tokens (arXiv 1502.03167): y = weight (x - mu) / sqrt(sigma^2 + eps) + bias, channel by channel.

In training mu and sigma^2 are the mean and (biased) variance of the batch's tokens; at evaluation they are

    running <- (1 - momentum) running + momentum batch,    with the unbiased variance n / (n - 1) sigma^2.

``bn`` counts real tokens only. ``bn_released`` is the BN baseline of the released PowerNorm code (arXiv 2003.07845): it
first divides each token by its root mean square over all channels, then fills padding, at evaluation too, with the
channel means of the real tokens and counts it. That leaves mu as it was and shrinks sigma^2.

One token alone has variance 0, so its output is the bias; it enters the running variance as 0.
"""

from typing import ClassVar

import torch
from torch import Tensor

from normplugins.norms.config import register_norm
from normplugins.norms.group_scaling import scale_groups
from normplugins.norms.statistics import RunningNorm, count_tokens, mean_over, recomputing, token_rows, zero_padding


@register_norm("bn")
@register_norm("bn_released", momentum=0.05, group_scaling=True, padding_filled=True)
class BatchNorm(RunningNorm):
    """BatchNorm of ``dim`` channels over the real tokens of (T, B, C) or (N, C); settings as in ``NormConfig``.

    Buffers ``running_mean`` and ``running_var`` (C,), from 0 and 1. Padding's output is 0, unless it is filled.
    """

    statistics: ClassVar[tuple[str, ...]] = ("running_mean", "running_var")
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        dim: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        group_scaling: bool = False,
        padding_filled: bool = False,
    ) -> None:
        super().__init__(dim, eps)
        self.momentum, self.group_scaling, self.padding_filled = momentum, group_scaling, padding_filled
        self.add_statistic("running_mean", 0.0)
        self.add_statistic("running_var", 1.0)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Normalize x (T, B, C) or (N, C); in training, count the batch in the running statistics."""
        rows, real = token_rows(x, padding_mask, self.dim)
        rows = zero_padding(rows, real)
        if self.group_scaling:
            rows = scale_groups(rows, 1, self.eps)
        tokens = count_tokens(rows, real)
        if self.padding_filled and real is not None:
            rows, real = torch.where(real, rows, mean_over(rows, tokens)), None
        if self.training:
            count = count_tokens(rows, real)
            mean = mean_over(rows, count)
            centred = zero_padding(rows - mean, real)
            var = mean_over(centred.square(), count)
            self._count_batch(mean, var * count / (count - 1).clamp(min=1), tokens > 0)
        else:
            centred, var = rows - self.running_mean.to(rows.dtype), self.running_var
        y = zero_padding(self.affine(centred, torch.rsqrt(var + self.eps)), real)
        return y.view(x.shape).to(x.dtype)

    @torch.no_grad()
    def _count_batch(self, mean: Tensor, var: Tensor, any_token: Tensor) -> None:
        if recomputing():
            return
        for running, batch in ((self.running_mean, mean), (self.running_var, var)):
            new = running.lerp(batch.to(running.dtype), self.momentum)
            running.copy_(torch.where(any_token, new, running))
