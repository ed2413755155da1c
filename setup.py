"""Compiles the CPU kernels and puts configs/ into the wheel. All other metadata is in pyproject.toml."""

import sys

from setuptools import Extension, find_packages, setup

# Without -fno-trapping-math a select compiles to a branch, which is seven times slower.
FLAGS = ["-O3", "-std=gnu11", "-fno-trapping-math"]
# Compiled for OpenMP but not linked to it: PyTorch loads OpenMP at run time, and the kernels share its threads.
OPENMP = "-fopenmp" if sys.platform == "linux" else "-fopenmp-simd"
HEADERS = [
    "normplugins/norms/backends/cpu/simd.h",
    "normplugins/norms/backends/cpu/passes.h",
    "normplugins/models/dropout.h",
]


def kernels(module: str, source: str) -> Extension:
    """An optional extension: if it does not compile, PyTorch's operations take its place, with a warning."""
    return Extension(module, [source], depends=HEADERS, extra_compile_args=[*FLAGS, OPENMP], optional=True)


setup(
    # configs/ becomes normplugins/configs in the wheel; a checkout uses the folder where it is (utils/paths.py).
    packages=[*find_packages(include=["normplugins*"]), "normplugins.configs"],
    package_dir={"normplugins.configs": "configs"},
    package_data={"normplugins.configs": ["*.yaml", "*/*.yaml"]},
    include_package_data=False,
    ext_modules=[
        kernels("normplugins.norms.backends.cpu._kernels", "normplugins/norms/backends/cpu/kernels.c"),
        kernels("normplugins.models._dropout", "normplugins/models/dropout.c"),
    ],
)
