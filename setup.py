"""Compiles the norms' CPU kernels; everything else is said in pyproject.toml."""

import sys

from setuptools import Extension, setup

# Compiled for OpenMP and not linked to it: at run time PyTorch has it loaded, and its threads are shared.
openmp = ["-fopenmp"] if sys.platform == "linux" else []

setup(
    ext_modules=[
        Extension(
            "normplugins.norms.cpu._kernels",
            ["normplugins/norms/cpu/kernels.c"],
            depends=["normplugins/norms/cpu/passes.h"],
            extra_compile_args=["-O3", "-std=gnu11", *openmp],
            optional=True,  # without them the norms run by their plain code, and say so
        )
    ]
)
