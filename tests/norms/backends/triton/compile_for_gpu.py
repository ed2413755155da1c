"""Compiles the kernels of a training step of each norm for a GPU, which need not be present, without running them.

    python -m tests.norms.backends.triton.compile_for_gpu [90 for an H100, 80 for an A100, ...]

Prints a line for each.
"""

import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from normplugins.norms import NormConfig, build_norm
from normplugins.norms.backends.triton.forwards import forward

NORMS = [
    NormConfig("pn"),
    *(NormConfig("pnv", group_scaling=scaling) for scaling in (False, True)),
    NormConfig("bn"),
    *(NormConfig("rms", groups=groups) for groups in (1, 4)),
]
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64", torch.uint8: "*u8"}


def compile_launch(kernel: JITFunction, target: GPUTarget, arguments: dict[str, Any]) -> str:
    """Compile a kernel for these arguments as a launch would; returns its name, warps and shared memory."""
    signature, constants, aligned = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value = arguments.get(parameter.name, parameter.default)
        if value is None or parameter.is_constexpr:
            signature[parameter.name], constants[i,] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name], aligned[i,] = TYPES[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "i32"
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    made = triton.compile(source, target=target, options={"num_warps": arguments.get("num_warps", 4)})
    assert made.asm["cubin"]
    return f"{kernel.__name__}: {made.metadata.num_warps} warps, {made.metadata.shared} bytes shared"


def main(architecture: int) -> None:
    target = GPUTarget("cuda", architecture, 32)

    def run(kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> None:
        print(compile_launch(kernel, target, dict(zip(kernel.arg_names, arguments, strict=False)) | named))

    JITFunction.run = run
    for config in NORMS:
        norm, mask = build_norm(config, 512), torch.zeros(3, 4, dtype=torch.bool)
        x = torch.zeros(4, 3, 512, dtype=torch.bfloat16, requires_grad=True)
        forward(norm, x, mask).sum().backward()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 90)
