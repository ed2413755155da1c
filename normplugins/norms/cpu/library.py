"""Loads what setup compiled from C."""

import ctypes
import warnings
from functools import cache
from importlib.util import find_spec


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
