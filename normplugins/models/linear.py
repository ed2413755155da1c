"""Linear maps whose float32 products oneDNN computes on processors where it is faster than PyTorch's BLAS library.

On AMD processors MKL uses 256-bit vectors and oneDNN 512-bit vectors, which Zen 5 executes at full width.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from normplugins.utils.processor import first_core

MIN_MULTIPLICATIONS = 2**22
"""oneDNN is faster from this number of multiplications on; for fewer, it takes too long to start."""
MIN_WEIGHT_SIZE = 128
"""oneDNN is faster from this number of rows and columns of a weight on; 64 channels are slower with it."""


@cache
def onednn_is_faster() -> bool:
    """Whether this is a processor on which oneDNN's float32 products were measured to be faster: AMD's Zen 5."""
    about = first_core()
    zen_5 = about.get("vendor_id") == "AuthenticAMD" and int(about.get("cpu family", 0)) >= 26
    return zen_5 and torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether to use :func:`product` for these tensors: float32 on a CPU, large enough, and outside autocast."""
    return (
        not torch.compiler.is_compiling()  # first, so that the compiler does not trace the other conditions
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= MIN_MULTIPLICATIONS
        and min(weight.shape) >= MIN_WEIGHT_SIZE
        and onednn_is_faster()
        and not torch.is_autocast_enabled("cpu")
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x weight^T + bias (..., M) by oneDNN, for x (..., K), weight (M, K) and bias (M,); it has no gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class Linear(nn.Linear):
    """torch.nn.Linear that uses :func:`product` where it is faster."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x weight^T + bias (..., out_features) of x (..., in_features)."""
        if not by_onednn(x, self.weight):
            return super().forward(x)
        if not torch.is_grad_enabled():
            return product(x, self.weight, self.bias)
        return _Linear.apply(x, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = g.flatten(0, -2)
        return (
            product(g, weight.t()) if for_x else None,
            product(rows.t(), x.flatten(0, -2).t()) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )
