"""Tokens and their statistics: rows without padding, means over real tokens, buffers that stay in float32.

Nothing here makes the host wait for the device: counts stay tensors, and padding is taken out with ``torch.where``
rather than by multiplication, so that inf or nan in a padded position reaches nothing.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn


def token_rows(x: Tensor, padding_mask: Tensor | None, dim: int) -> tuple[Tensor, Tensor | None]:
    """Flatten x (T, B, C) or (N, C) to rows (N, C), in float32 at least, and the mask to real (N, 1), True = token.

    ``padding_mask`` is (B, T) for x (T, B, C), (N,) for x (N, C), True where padding; None gives None.
    Raises ValueError when a shape does not fit.
    """
    if x.dim() not in (2, 3) or x.size(-1) != dim:
        raise ValueError(f"a norm of {dim} channels takes (T, B, {dim}) or (N, {dim}), not {tuple(x.shape)}")
    rows = x.reshape(-1, dim).to(torch.promote_types(x.dtype, torch.float32))
    if padding_mask is None:
        return rows, None
    if padding_mask.shape != x.shape[:-1][::-1]:
        raise ValueError(
            f"padding mask {tuple(padding_mask.shape)} does not fit x {tuple(x.shape)}: "
            "(B, T) goes with (T, B, C), (N,) with (N, C)"
        )
    padding = padding_mask.bool()
    return rows, ~(padding.t() if padding.dim() == 2 else padding).reshape(-1, 1)


def zero_padding(rows: Tensor, real: Tensor | None) -> Tensor:
    """Put zeros into the rows (N, C) that are padding; their gradient is zero as well."""
    return rows if real is None else torch.where(real, rows, 0)


def count_tokens(rows: Tensor, real: Tensor | None) -> Tensor:
    """Count the tokens among rows (N, C), as a scalar tensor of the rows' dtype."""
    return rows.new_full((), rows.size(0)) if real is None else real.sum().to(rows.dtype)


def mean_over(rows: Tensor, count: Tensor) -> Tensor:
    """Mean (C,) of rows (N, C) whose padding is zero, over ``count`` tokens; 0 where there is none."""
    return rows.sum(0) / count.clamp(min=1)


def recomputing() -> bool:
    """Whether this forward runs inside a backward: activation checkpointing is running it for the second time."""
    return bool(torch._C._current_graph_task_id() != -1)


class RunningNorm(nn.Module):
    """What the norms with running statistics share: weight and bias (C,), and buffers kept in float32.

    A subclass lists its floating-point buffers in ``statistics``. ``.half()`` and ``.bfloat16()`` convert the
    parameters and leave these in float32; ``.double()`` converts both.
    """

    statistics: ClassVar[tuple[str, ...]] = ()
    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def add_statistic(self, name: str, value: float) -> None:
        """Register the buffer ``name`` (C,), filled with ``value``, in float32 or a wider default dtype."""
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.register_buffer(name, torch.full((self.dim,), value, dtype=dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RunningNorm":
        before = {name: self.get_buffer(name) for name in self.statistics}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self.get_buffer(name)
            if torch.finfo(new.dtype).bits < 32:  # from the old values: those in ``new`` are rounded
                setattr(self, name, old.to(device=new.device, dtype=torch.float32))
        return self

    def affine(self, rows: Tensor, scale: Tensor) -> Tensor:
        """weight * (rows * scale) + bias, for rows (N, C) and scale (C,), in the rows' dtype."""
        return torch.addcmul(self.bias.to(rows.dtype), rows, (self.weight * scale).to(rows.dtype))

    def extra_repr(self) -> str:
        """Show every plain setting: ``512, eps=1e-05, ...``."""
        plain = {key: value for key, value in vars(self).items() if key[0] != "_" and key not in ("dim", "training")}
        return ", ".join([str(self.dim), *(f"{key}={value}" for key, value in plain.items())])
