"""Group scaling: z = x / sqrt(mean(x^2) + eps), with the mean over the channels of each token's channel group.

The released PN does this before its own normalization, with one group per attention head; the body of the paper does
not mention it. The released BN starts with group scaling too, with a single group. It is a switch of ``pn_alg2``,
``pnv`` and ``bn``, and ``rms`` with several ``groups`` is group scaling alone. These controls separate the effect of
group scaling in ``pn`` from the effect of the running statistics.
"""

import torch.nn.functional as F
from torch import Tensor


def refuse_group_scaling(on: bool) -> None:
    """Raise ValueError if group scaling is on: the norm is then not the same affine map for every token."""
    if on:
        raise ValueError("its group scaling divides each token by the token's own root mean square")


def scale_groups(rows: Tensor, groups: int, eps: float) -> Tensor:
    """Divide each of the ``groups`` channel groups of each token in ``rows`` (N, C) by its root mean square."""
    grouped = rows.view(rows.size(0), groups, rows.size(1) // groups)
    return F.rms_norm(grouped, grouped.shape[-1:], eps=eps).view_as(rows)
