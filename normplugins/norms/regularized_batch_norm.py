"""RegularizedBN (arXiv 2210.05153): BatchNorm with a loss term, the distance between batch and running statistics.

    loss += penalty_mean sum_c (mu - mu_B)^2 + penalty_var sum_c |sigma^2 - sigma_B^2|

The sums are over channels, and gradients pass only through the batch's mu_B and sigma_B^2. As in the released code, the
running statistics already contain this batch, except with ``per_update``. The terms of all norms are added once to the
loss of each batch, which is a *sum* over the batch's tokens. With several batches in an update, or several
processes without ``sync=batch``, each batch has its own term. The defaults are the released recipe for pre-norm
transformers, ``batch_diff_0.1_0.01``. The released code differs in two details: it divides by sqrt(max(sigma^2, eps))
rather than sqrt(sigma^2 + eps), and it also normalizes padding, where the output here is 0.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normplugins.norms.batch_moments import BatchMomentsNorm
from normplugins.norms.distributed import process_count
from normplugins.norms.registry import register_norm
from normplugins.norms.settings import EpsSettings, RunningSettings, setting
from normplugins.norms.tokens import token_rows, zero_padding


@dataclass(frozen=True)
class RegularizedBatchNormSettings(RunningSettings, EpsSettings):
    """Settings of ``rbn``."""

    momentum: float = setting(0.05, "weight of the batch in the running mean and variance", above=0, maximum=1)
    penalty_mean: float = setting(0.1, "weight of the squared distance of the means in the loss", minimum=0)
    penalty_var: float = setting(0.01, "weight of the absolute distance of the variances in the loss", minimum=0)


@register_norm("rbn", RegularizedBatchNormSettings)
class RegularizedBatchNorm(BatchMomentsNorm):
    """BatchNorm of each channel over the batch's real tokens, with a term in the loss.

    ``weight`` and ``bias`` (C,) start at 1 and 0. Buffers ``running_mean`` and ``running_var`` (C,) start at 0 and 1;
    as in the released code, the running variance is the biased one. The output at padding is 0.
    """

    penalty_mean: float
    penalty_var: float

    def __init__(self, dim: int, settings: RegularizedBatchNormSettings) -> None:
        super().__init__(dim, settings)
        self.loss_term: Tensor | None = None

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Normalize x (T, B, C) or (N, C); in training, set ``loss_term`` and update the running statistics."""
        rows, real = token_rows(x, padding_mask, self.dim)
        rows = zero_padding(rows, real)
        if self.training:
            centred, tokens, count, mean, var = self.centre(rows, real)
            self.update_running_stats(tokens, count, mean, var)
            running_mean, running_var = self.running_mean.clone(), self.running_var.clone()
            distance = self.penalty_mean * (running_mean - mean).square().sum()
            distance = distance + self.penalty_var * (running_var - var).abs().sum()
            # synchronized: every process has the whole distance, and the sum over processes must count it once
            self.loss_term = (count > 0) * distance / (process_count() if self.synchronizes else 1)
        else:
            centred, var = rows - self.running_mean.to(rows.dtype), self.running_var
        y = zero_padding(self.affine(centred, torch.rsqrt(var + self.eps)), real)
        return y.view(x.shape).to(x.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Drop ``loss_term``, which holds the latest batch's graph, when the module is copied or pickled."""
        return {**self.__dict__, "loss_term": None}
