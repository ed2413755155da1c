"""Loads compiled C functions, and chooses their number of threads."""

import ctypes
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

SUFFIX = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat16"}
"""The suffix of a C function's name, by dtype."""
COMPILE = "pip install --no-deps --editable . compiles it"
MIN_ELEMENTS_PER_THREAD = 1 << 15  # with fewer, waking another thread does not pay


@cache
def library(module: str) -> ctypes.CDLL | None:
    """Return the compiled functions of ``module``, or None with a warning if they cannot be loaded or are out of date.

    They use the OpenMP library that PyTorch has loaded; a second one would start its own threads.
    """
    found = find_spec(module)
    compiled = Path(found.origin) if found and found.origin else None
    if compiled is None:
        why = f"not compiled; {COMPILE}"
    elif any(source.stat().st_mtime > compiled.stat().st_mtime for source in _sources(compiled.parent)):
        why = f"compiled before its source changed; {COMPILE}"  # C would misread the arguments of newer Python code
    else:
        try:
            return ctypes.CDLL(str(compiled))
        except OSError as error:
            why = str(error)
    warnings.warn(f"training on this CPU will be slower without {module}: {why}", stacklevel=2)
    return None


def _sources(folder: Path) -> list[Path]:
    """Return the C files in the folder of a library, and the header that all libraries include."""
    return [*folder.glob("[!.]*.[ch]"), *Path(__file__).parent.glob("simd.h")]


def threads_for(x: Tensor) -> int:
    """Return the number of threads for a pass over x, at most PyTorch's."""
    return max(1, min(torch.get_num_threads(), x.numel() // MIN_ELEMENTS_PER_THREAD))
