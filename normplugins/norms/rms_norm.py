"""RMSNorm (arXiv 1910.07467): y = weight x / sqrt(mean(x^2) + eps), over each token's channels.

With ``groups`` > 1 the mean is over each group of channels: ``pn``'s group scaling alone, without statistics.
Fast code: ``backends/cpu/forwards.py`` and ``backends/triton/forwards.py``.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from normplugins.norms.backends.dispatch import Dispatched
from normplugins.norms.base import Norm, check_input, in_wider_dtype
from normplugins.norms.group_scaling import scale_groups
from normplugins.norms.registry import register_norm
from normplugins.norms.settings import EpsSettings, KernelSettings, setting
from normplugins.norms.tokens import token_rows


@dataclass(frozen=True)
class RMSNormSettings(KernelSettings, EpsSettings):
    """Settings of ``rms``."""

    groups: int = setting(1, "channel groups of a token, each divided by its own root mean square", minimum=1)


@register_norm("rms", RMSNormSettings)
class RMSNorm(Dispatched, Norm):
    """RMSNorm over each token's channels or channel groups.

    ``weight`` (C,) starts at 1, and there is no bias.
    """

    groups: int

    def __init__(self, dim: int, settings: RMSNormSettings) -> None:
        super().__init__(dim, settings)
        del self.bias

    def plain(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Normalize x (..., C). Tokens are independent, so the padding mask is not read."""
        if self.groups > 1:
            rows, _ = token_rows(x, None, self.dim, flat=False)
            y = scale_groups(rows, self.groups, self.eps) * self.weight.to(rows.dtype)
            return y.view(x.shape).to(x.dtype)
        check_input(x, self.dim, flat=False)
        rows, weight = in_wider_dtype(x, self.weight)
        return F.rms_norm(rows, (self.dim,), weight, self.eps).to(x.dtype)
