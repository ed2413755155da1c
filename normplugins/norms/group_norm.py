"""GroupNorm: y = weight (x - mean) / sqrt(var + eps) + bias, over each of a token's channel groups (arXiv 1803.08494).

The paper's groups span an image's positions, 32 groups unless told otherwise. A token has its channels alone: 4 groups
here, as ``pn`` scales in the IWSLT14 recipe. One group is LayerNorm; groups of one channel would leave nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normplugins.norms.registry import register_norm
from normplugins.norms.statistics import token_rows


@register_norm("group")
class GroupNorm(nn.Module):
    """GroupNorm of ``dim`` channels in ``groups`` equal groups; ``weight`` and ``bias`` (C,), from 1 and 0.

    Raises ValueError when the groups do not divide dim or have one channel each.
    """

    def __init__(self, dim: int, *, eps: float = 1e-5, groups: int = 4) -> None:
        super().__init__()
        if dim % groups or dim == groups:
            raise ValueError(
                f"group: {dim} channels cannot be split into {groups} equal groups of two or more; change groups"
            )
        self.dim, self.eps, self.groups = dim, eps, groups
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Normalize x (T, B, C) or (N, C), token by token: padding reaches no token."""
        rows, _ = token_rows(x, padding_mask, self.dim)
        grouped = rows.view(rows.size(0), self.groups, self.dim // self.groups)
        z = F.layer_norm(grouped, grouped.shape[-1:], eps=self.eps).view_as(rows)
        return torch.addcmul(self.bias.to(z.dtype), z, self.weight.to(z.dtype)).view(x.shape).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the settings: ``512, eps=1e-05, groups=4``."""
        return f"{self.dim}, eps={self.eps}, groups={self.groups}"
