"""Compiles the CPU kernels of norms and dropout; everything else is said in pyproject.toml."""

import sys

from setuptools import Extension, setup

# No floating-point exceptions are looked for: with them a select is a branch, seven times slower.
FLAGS = ["-O3", "-std=gnu11", "-fno-trapping-math"]
# Compiled for OpenMP and not linked to it: at run time PyTorch has it loaded, and its threads are shared.
OPENMP = "-fopenmp" if sys.platform == "linux" else "-fopenmp-simd"
HEADERS = [
    "normplugins/norms/backends/cpu/simd.h",
    "normplugins/norms/backends/cpu/passes.h",
    "normplugins/models/dropout.h",
]


def kernels(module: str, source: str) -> Extension:
    """An extension that may be missing: norms and dropout are then PyTorch's operations, and a warning says so."""
    return Extension(module, [source], depends=HEADERS, extra_compile_args=[*FLAGS, OPENMP], optional=True)


setup(
    ext_modules=[
        kernels("normplugins.norms.backends.cpu._kernels", "normplugins/norms/backends/cpu/kernels.c"),
        kernels("normplugins.models._dropout", "normplugins/models/dropout.c"),
    ]
)
