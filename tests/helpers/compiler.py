"""Marks for tests that need a C++ compiler, the C code that setup compiles with it, or ``torch.compile``."""

import shutil
from importlib.util import find_spec

import pytest
import torch

from normplugins.runs.check import COMPILES_FROM

HAS_COMPILER = shutil.which("c++") is not None
LIBRARIES = ("normplugins.norms.backends.cpu._kernels", "normplugins.models._dropout")

needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="there is no C++ compiler (Debian: apt install g++)")
# With a compiler, a missing library is a setup error, and the tests fail.
needs_libraries = pytest.mark.skipif(
    not (HAS_COMPILER or all(map(find_spec, LIBRARIES))),
    reason="the C code is not compiled, and there is no C++ compiler (Debian: apt install g++)",
)
needs_torch_compile = pytest.mark.skipif(
    torch.__version__ < COMPILES_FROM, reason=f"norms are compiled with PyTorch {COMPILES_FROM} or newer"
)
