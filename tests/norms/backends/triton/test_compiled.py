"""The kernels compile for a GPU, which need not be present: the interpreter accepts more than the compiler."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_every_kernel_compiles_for_a_gpu() -> None:
    command = [sys.executable, "-m", "tests.norms.backends.triton.compile_for_gpu"]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "0"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = {line.split(":")[0] for line in done.stdout.splitlines()}
    assert kernels == {"forward", "backward", "end_backward", "_end_forward", "_moments", "_end_statistics"}
