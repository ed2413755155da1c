"""What ``torch.compile`` has to be told about running statistics.

Compiled, a backward computes anew what it can from the forward's inputs, and PyTorch (2.6 to 2.13) does not see that
the forward changed those of them that are buffers: 1 / psi would come out with the psi of *after* the step. It computes
no opaque operator anew, so what a backward needs of a running statistic goes through one.
"""

import torch
from torch import Tensor


@torch.library.custom_op("normplugins::of_this_forward", mutates_args=())
def _of_this_forward(x: Tensor) -> Tensor:
    if torch._C._current_graph_task_id() != -1:  # a second forward, in a backward: it would count its batch again
        raise RuntimeError(
            "activation checkpointing around a compiled norm, or one inside that lets it be recomputed: "
            "compile without checkpointing, or checkpoint without compiling"
        )
    return x.clone()


@_of_this_forward.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def of_this_forward(x: Tensor) -> Tensor:
    """Return x, in a compiled graph as a copy that its backward keeps; no gradient passes.

    Raises RuntimeError where activation checkpointing runs the compiled graph a second time, or makes its backward
    compute x anew.
    """
    if not torch.compiler.is_compiling():
        return x
    kept: Tensor = _of_this_forward(x.detach())
    return kept
