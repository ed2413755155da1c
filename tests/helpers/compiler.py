"""Marks for tests that need a C++ compiler, or the C code that setup compiles with it."""

import shutil
from importlib.util import find_spec

import pytest

HAS_COMPILER = shutil.which("c++") is not None
LIBRARIES = ("normplugins.norms.backends.cpu._kernels", "normplugins.models._dropout")

needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="there is no C++ compiler (Debian: apt install g++)")
# With a compiler, a missing library is an error of the setup.
needs_libraries = pytest.mark.skipif(
    not (HAS_COMPILER or all(map(find_spec, LIBRARIES))),
    reason="the C code is not compiled, and there is no C++ compiler (Debian: apt install g++)",
)
