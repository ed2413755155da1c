"""Group scaling: z = x / sqrt(mean over the group's channels of x^2 + eps), for each token and channel group.

The released PN does this before its own normalization, with one group per attention head; the paper's body does not
mention it. With one group it is the per-token root mean square that the released BN starts with. ``pn_alg2``, ``pnv``
and ``bn`` have it as a switch, and ``rms`` with several ``groups`` is group scaling alone: these are the controls that
tell its effect in ``pn`` from that of the running statistics.
"""

import torch.nn.functional as F
from torch import Tensor


def check_groups(dim: int, groups: int) -> None:
    """Raise ValueError unless ``groups`` divides the ``dim`` channels."""
    if dim % groups:
        raise ValueError(f"group scaling: {dim} channels cannot be split into {groups} equal groups; change groups")


def refuse_group_scaling(on: bool) -> None:
    """Raise ValueError where a norm with group scaling is asked for a map that is the same for every token."""
    if on:
        raise ValueError("its group scaling divides each token by a root mean square of the token's own")


def scale_groups(rows: Tensor, groups: int, eps: float) -> Tensor:
    """Divide each of the ``groups`` channel groups of each token in ``rows`` (N, C) by its root mean square."""
    grouped = rows.view(rows.size(0), groups, rows.size(1) // groups)
    return F.rms_norm(grouped, grouped.shape[-1:], eps=eps).view_as(rows)
