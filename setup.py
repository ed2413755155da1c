"""Compiles the CPU kernels and puts configs/ into the wheel. All other metadata is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup

# Without -fno-trapping-math a select compiles to a branch, which is seven times slower. The dropout reads an array of
# 64-bit numbers as 16-bit ones, which needs -fno-strict-aliasing.
FLAGS = ["-O3", "-std=gnu11", "-fno-trapping-math", "-fno-strict-aliasing"]
COMPILER = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
HEADERS = [str(header) for header in Path("normplugins").rglob("*.h")]


def openmp() -> str:
    """Return the flag for OpenMP, to which nothing is linked: PyTorch loads GCC's, and the kernels share its threads.

    Code of clang needs another OpenMP library, which PyTorch for Linux does not have, and so it runs on one thread.
    """
    try:
        version = subprocess.run([*COMPILER, "--version"], capture_output=True, text=True).stdout
    except OSError:  # there is no compiler, and the kernels are optional
        version = ""
    return "-fopenmp" if sys.platform == "linux" and "clang" not in version else "-fopenmp-simd"


def kernels(module: str, source: str) -> Extension:
    """An optional extension: if it does not compile, PyTorch's operations take its place, with a warning."""
    return Extension(module, [source], depends=HEADERS, extra_compile_args=[*FLAGS, openmp()], optional=True)


for old in Path("build").glob("lib*"):  # setuptools would put files into a wheel that have been deleted since
    shutil.rmtree(old)
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
