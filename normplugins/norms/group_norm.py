"""GroupNorm (arXiv 1803.08494): y = weight (x - mean) / sqrt(var + eps) + bias, over each channel group of a token.

In the paper a group also spans the positions of an image, and the default is 32 groups. Here a group has only channels
of one token, and the default is 4 groups, as in the group scaling of ``pn`` in the IWSLT14 recipe. One group is
LayerNorm. Groups of one channel would always give 0.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from normplugins.norms.base import Norm
from normplugins.norms.registry import register_norm
from normplugins.norms.settings import EpsSettings, setting
from normplugins.norms.tokens import token_rows


@dataclass(frozen=True)
class GroupNormSettings(EpsSettings):
    """Settings of ``group``."""

    groups: int = setting(4, "channel groups of a token", minimum=1)


@register_norm("group", GroupNormSettings)
class GroupNorm(Norm):
    """GroupNorm over each channel group of a token.

    Raises:
        ValueError: the groups have one channel each.
    """

    groups: int

    def __init__(self, dim: int, settings: GroupNormSettings) -> None:
        super().__init__(dim, settings)
        if dim == self.groups:
            raise ValueError(f"{dim} channels in {dim} groups of one channel each would always give 0; change groups")

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Normalize x (..., C). Tokens are independent, so the padding mask is not read."""
        rows, _ = token_rows(x, None, self.dim, flat=False)
        grouped = rows.view(rows.size(0), self.groups, self.dim // self.groups)
        z = F.layer_norm(grouped, (self.dim // self.groups,), eps=self.eps).view_as(rows)
        return torch.addcmul(self.bias.to(z.dtype), z, self.weight.to(z.dtype)).view(x.shape).to(x.dtype)
