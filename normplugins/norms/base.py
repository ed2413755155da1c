"""The base class of the norms."""

from dataclasses import fields
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def check_input(x: Tensor, dim: int, flat: bool = True) -> None:
    """Check the input of a norm of C = ``dim`` channels: x (T, B, C) or (N, C); without ``flat``, (..., C).

    Raises:
        ValueError: x has another shape.
        TypeError: x is not a floating-point tensor.
    """
    if x.size(-1) != dim or (flat and x.dim() not in (2, 3)):
        shapes = f"(T, B, {dim}) or (N, {dim})" if flat else f"(..., {dim})"
        raise ValueError(f"a norm of {dim} channels takes {shapes}, not {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"a norm takes floating-point numbers, not {x.dtype}")


def in_wider_dtype(x: Tensor, *parameters: Tensor) -> list[Tensor]:
    """Convert x and the parameters to the wider of their dtypes, so that bfloat16 does not round float32 weights."""
    dtype = torch.promote_types(x.dtype, parameters[0].dtype)
    return [each.to(dtype) for each in (x, *parameters)]


class Norm(nn.Module):
    """Base class of norms with ``weight`` and ``bias`` (C,), which start at 1 and 0.

    Each setting is also an attribute, as in PyTorch's own norms. Numbers such as eps, momentum, decays and warmups may
    be changed later; sizes (groups, window), ``sync`` and ``per_update`` are fixed when the norm is built.

    Raises:
        ValueError: ``groups`` does not divide dim.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    eps: float
    batch_first: bool | None
    """whether x is (B, T, C) rather than (T, B, C); None if it is not known, and masks of a 3-D x are then refused"""

    def __init__(self, dim: int, settings: Any) -> None:
        super().__init__()
        groups = getattr(settings, "groups", 1)
        if getattr(settings, "group_scaling", True) and dim % groups:  # a norm without this switch always has groups
            raise ValueError(f"{dim} channels cannot be split into {groups} equal groups; change groups")
        self.dim, self.settings = dim, settings
        for each in fields(settings):
            setattr(self, each.name, getattr(settings, each.name))
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set parameters and running statistics to their initial values, as needed after ``to_empty``."""
        with torch.device("cpu"):
            new = type(self)(self.dim, self.settings)
        initial = dict(chain(new.named_parameters(), new.named_buffers()))
        for name, tensor in chain(self.named_parameters(), self.named_buffers()):
            tensor.fill_(initial[name].flatten()[0].item())  # fill_, because the tensor may be a DTensor

    def extra_repr(self) -> str:
        """Show the settings: ``512, eps=1e-05, ...``."""
        shown = {each.name: getattr(self, each.name) for each in fields(self.settings)}
        shown |= {"batch_first": True} if self.batch_first else {}
        return ", ".join([str(self.dim), *(f"{key}={value}" for key, value in shown.items())])
