"""BatchNorm over tokens (arXiv 1502.03167): y = weight (x - mu) / sqrt(sigma^2 + eps) + bias, channel by channel.

In training mu and sigma^2 are the mean and (biased) variance of the batch's tokens; at evaluation they are

    running <- (1 - momentum) running + momentum batch,    with the unbiased variance n / (n - 1) sigma^2.

``bn`` counts real tokens only. ``bn_released`` is the BN baseline of the released PowerNorm code (arXiv 2003.07845): it
first divides each token by its root mean square over all channels, then fills padding, at evaluation too, with the
channel means of the real tokens and counts it. That leaves mu as it was and shrinks sigma^2. Both are switches of
``bn`` too: ``group_scaling``, there with ``groups`` groups of channels in place of one, and ``padding_filled``.

One token alone has variance 0, so its output is the bias; it enters the running variance as 0.
"""

from typing import ClassVar

import torch
from torch import Tensor

from normplugins.norms.backends.dispatch import fast_path
from normplugins.norms.deferred_residual import DeferredResidual, materialize
from normplugins.norms.distributed import gather_over_processes, sum_gradients
from normplugins.norms.group_scaling import check_groups, refuse_group_scaling, scale_groups
from normplugins.norms.registry import register_norm
from normplugins.norms.statistics import RunningNorm, count_tokens, mean_over, token_rows, zero_padding


@register_norm("bn")
@register_norm("bn_released", fixed={"groups": 1}, momentum=0.05, group_scaling=True, padding_filled=True)
class BatchNorm(RunningNorm):
    """BatchNorm of ``dim`` channels over the real tokens of (T, B, C) or (N, C); settings as in ``NormConfig``.

    Buffers ``running_mean`` and ``running_var`` (C,), from 0 and 1. Padding's output is 0, unless it is filled.
    Raises ValueError when the groups of a group scaling do not divide dim.
    """

    statistics: ClassVar[tuple[str, ...]] = ("running_mean", "running_var")
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        dim: int,
        *,
        eps: float = 1e-5,
        groups: int = 4,
        momentum: float = 0.1,
        group_scaling: bool = False,
        padding_filled: bool = False,
        sync: str = "none",
        per_update: bool = False,
        kernels: str = "auto",
    ) -> None:
        super().__init__(dim, eps, sync, per_update, kernels)
        check_groups(dim, groups if group_scaling else 1)
        self.groups, self.momentum = groups, momentum
        self.group_scaling, self.padding_filled = group_scaling, padding_filled
        self.accepts_deferred = not (group_scaling or padding_filled)
        self.add_statistic("running_mean", 0.0)
        self.add_statistic("running_var", 1.0)

    def forward(self, x: Tensor | DeferredResidual, padding_mask: Tensor | None = None) -> Tensor:
        """Normalize x (T, B, C) or (N, C), or such a sum; in training, count the batch in the running statistics."""
        if fast := fast_path(self.kernels, x, self.training):
            y: Tensor = fast.batch_norm(self, x, padding_mask)
            return y
        return self.plain(materialize(x), padding_mask)

    def plain(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Do what ``forward`` does, by the equations."""
        rows, real = token_rows(x, padding_mask, self.dim)
        rows = zero_padding(rows, real)
        if self.group_scaling:
            rows = scale_groups(rows, self.groups, self.eps)
        token, tokens = real, count_tokens(rows, real)
        if self.padding_filled and real is not None:
            rows, real = torch.where(real, rows, mean_over(rows, tokens)), None
        if self.training:
            count = count_tokens(rows, real)
            mean = mean_over(rows, count)
            centred = zero_padding(rows - mean, real)
            var = mean_over(centred.square(), count)
            if self.synchronised:
                tokens, count, mean, var = self.over_processes(tokens, count, mean, var)
                centred = zero_padding(rows - mean, token)  # padding is filled with this mean, if at all
            self.update_running_stats(tokens, count, mean, var)
        else:
            centred, var = rows - self.running_mean.to(rows.dtype), self.running_var
        y = zero_padding(self.affine(centred, torch.rsqrt(var + self.eps)), real)
        return y.view(x.shape).to(x.dtype)

    def fixed_affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (C,), in float64, of what evaluation does to a token; ValueError with group scaling."""
        refuse_group_scaling(self.group_scaling)
        scale = self.weight.double() * torch.rsqrt(self.running_var.double() + self.eps)
        return scale, self.bias.double() - scale * self.running_mean.double()

    # A batch's moments are (tokens, count, mean (C,), var (C,)): mean over the tokens, var over ``count`` positions,
    # which are the tokens and the padding that was filled with the mean.

    def batch_statistics(self, tokens: Tensor, *moments: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Mean and unbiased variance."""
        count, mean, var = moments
        return mean, var * count / (count - 1).clamp(min=1)

    def over_processes(self, tokens: Tensor, *moments: Tensor) -> tuple[Tensor, ...]:
        """Moments of all processes' tokens, from each one's own: variances would lose digits in a sum of squares.

        To be called where :attr:`synchronised`.
        """
        parts = gather_over_processes(torch.cat([tokens.view(1), moments[0].view(1), *moments[1:]]))
        each_tokens, each_count, means, variances = torch.split(parts, [1, 1, self.dim, self.dim], dim=1)
        tokens, count = each_tokens.sum(), each_count.sum()
        mean = (each_tokens * means).sum(0) / tokens.clamp(min=1)
        squares = each_count * variances + each_tokens * (means - mean).square()
        mean, var = sum_gradients(torch.cat([mean, squares.sum(0) / count.clamp(min=1)])).chunk(2)
        return tokens, count, mean, var

    def _sums(self, tokens: Tensor, *moments: Tensor) -> Tensor:
        count, mean, var = moments
        return torch.cat([tokens.view(1), count.view(1), tokens * mean, count * var + tokens * mean.square()])

    def _moments(self, sums: Tensor) -> tuple[Tensor, ...]:
        tokens, count, (total, squares) = sums[0], sums[1], sums[2:].chunk(2)
        mean = total / tokens.clamp(min=1)
        return tokens, count, mean, (squares - tokens * mean.square()).clamp(min=0) / count.clamp(min=1)
