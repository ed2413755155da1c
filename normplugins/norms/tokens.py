"""Tokens: rows without padding, and means over real tokens.

Nothing here makes the host wait for the device: token counts stay tensors. Padding is removed with ``torch.where``
rather than by multiplication, so inf or nan at a padded position does not affect a mean. The exception is the backward
pass of PN as released, which counts padding.
"""

import torch
from torch import Tensor

from normplugins.norms.base import check_input


def token_rows(x: Tensor, padding_mask: Tensor | None, dim: int, flat: bool = True) -> tuple[Tensor, Tensor | None]:
    """Flatten x (T, B, C) or (N, C) to rows (N, C), in at least float32, and the mask to real (N, 1), True = token.

    ``padding_mask`` is (B, T) for x (T, B, C), or (N,) for x (N, C), True at padding. Without a mask, ``real`` is None.
    inputs.py has already checked the mask. Without ``flat``, x may be (..., C). Raises the errors of
    :func:`~normplugins.norms.base.check_input`.
    """
    check_input(x, dim, flat)
    rows = x.reshape(-1, dim).to(torch.promote_types(x.dtype, torch.float32))
    if padding_mask is None:
        return rows, None
    return rows, ~(padding_mask.t() if padding_mask.dim() == 2 else padding_mask).reshape(-1, 1)


def zero_padding(rows: Tensor, real: Tensor | None) -> Tensor:
    """Set the rows (N, C) that are padding to zero; their gradient is zero as well."""
    return rows if real is None else torch.where(real, rows, 0)


def count_tokens(rows: Tensor, real: Tensor | None) -> Tensor:
    """Return the number of tokens among rows (N, C), as a scalar tensor of the rows' dtype."""
    return rows.new_full((), rows.size(0)) if real is None else real.sum().to(rows.dtype)


def mean_over(rows: Tensor, count: Tensor) -> Tensor:
    """Return the mean (C,) of rows (N, C) whose padding is zero, over ``count`` tokens; 0 without tokens."""
    return rows.sum(0) / count.clamp(min=1)
