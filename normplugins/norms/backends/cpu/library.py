"""Loads what setup compiled from C, and what its callers have in common."""

import ctypes
import warnings
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

SUFFIX = {torch.float32: "float", torch.float64: "double"}
"""How a function's name ends, by the dtype that it takes."""
_SHARE = 1 << 15  # elements that are worth waking a thread for


@cache
def library(module: str) -> ctypes.CDLL | None:
    """The compiled functions of ``module``, or None, with a warning, where they cannot be loaded.

    They are linked to no OpenMP of their own, and find PyTorch's: a second one would have threads of its own.
    """
    found = find_spec(module)
    try:
        if found and found.origin:
            return ctypes.CDLL(found.origin)
        why = "not compiled; pip install --no-deps --editable . does it"
    except OSError as error:
        why = str(error)
    warnings.warn(f"training on this CPU will be slower, for want of {module}: {why}", stacklevel=2)
    return None


def threads_for(x: Tensor) -> int:
    """How many threads a pass over x is worth, at most PyTorch's."""
    return max(1, min(torch.get_num_threads(), x.numel() // _SHARE))
