"""BatchNorm over tokens (arXiv 1502.03167): y = weight (x - mu) / sqrt(sigma^2 + eps) + bias, per channel.

In training mu and sigma^2 are the mean and the biased variance of the batch's tokens. At evaluation they are

    running <- (1 - momentum) running + momentum batch,    with the unbiased variance n / (n - 1) sigma^2.

``bn`` counts real tokens only. ``bn_released`` is the BN baseline of the released PowerNorm code (arXiv 2003.07845). It
first divides each token by its root mean square over all channels. Then, also at evaluation, it fills padding with the
channel means of the real tokens and counts padding as tokens, which leaves mu unchanged and shrinks sigma^2. Both steps
are switches of ``bn``: ``group_scaling``, with ``groups`` channel groups instead of one, and ``padding_filled``.

A batch of one token has variance 0: its output is the bias, and 0 enters the running variance.
Fast code: ``backends/cpu/forwards.py`` and ``backends/triton/forwards.py``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from normplugins.norms.backends.dispatch import Dispatched
from normplugins.norms.batch_moments import BatchMomentsNorm
from normplugins.norms.group_scaling import scale_groups
from normplugins.norms.registry import register_norm
from normplugins.norms.settings import EpsSettings, GroupScalingSettings, KernelSettings, RunningSettings, setting
from normplugins.norms.tokens import count_tokens, mean_over, token_rows, zero_padding


@dataclass(frozen=True)
class BatchNormSettings(GroupScalingSettings, KernelSettings, RunningSettings, EpsSettings):
    """Settings of ``bn`` and ``bn_released``."""

    momentum: float = setting(0.1, "weight of the batch in the running mean and variance", above=0, maximum=1)
    padding_filled: bool = setting(False, "padding takes the channel means of the real tokens and counts as tokens")


@register_norm("bn", BatchNormSettings)
@register_norm(
    "bn_released",
    BatchNormSettings,
    summary="The released code's BatchNorm: per-token RMS first, padding filled and counted.",
    fixed={"groups": 1},
    momentum=0.05,
    group_scaling=True,
    padding_filled=True,
)
class BatchNorm(Dispatched, BatchMomentsNorm):
    """BatchNorm of each channel over the batch's real tokens.

    ``weight`` and ``bias`` (C,) start at 1 and 0. Buffers ``running_mean`` and ``running_var`` (C,) start at 0 and 1.
    The output at padding is 0 unless padding is filled.
    """

    group_scaling: bool
    groups: int
    padding_filled: bool

    @property
    def has_fast_code(self) -> bool:
        """Whether both switches are off: the fast code has neither."""
        return not (self.group_scaling or self.padding_filled)

    def plain(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Normalize x (T, B, C) or (N, C); in training, update the running statistics."""
        rows, real = token_rows(x, padding_mask, self.dim)
        rows = zero_padding(rows, real)
        if self.group_scaling:
            rows = scale_groups(rows, self.groups, self.eps)
        if self.padding_filled and real is not None:
            rows = torch.where(real, rows, mean_over(rows, count_tokens(rows, real)))
        if self.training:
            centred, tokens, count, mean, var = self.centre(rows, real, self.padding_filled)
            self.update_running_stats(tokens, count, mean, var)
        else:
            centred, var = rows - self.running_mean.to(rows.dtype), self.running_var
        y = self.affine(centred, torch.rsqrt(var + self.eps))
        y = y if self.padding_filled else zero_padding(y, real)
        return y.view(x.shape).to(x.dtype)

    def batch_statistics(self, tokens: Tensor, *moments: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Return the mean and the unbiased variance."""
        count, mean, var = moments
        return mean, var * count / (count - 1).clamp(min=1)
