"""A workaround for running statistics under ``torch.compile``.

A compiled backward recomputes what it can from the forward's inputs. PyTorch 2.10 to 2.13 does not notice that the
forward has updated inputs that are buffers: 1 / psi would be recomputed from the psi *after* the update. Opaque
operators are never recomputed, so the values of running statistics that a backward needs pass through one.
"""

import torch
from torch import Tensor


@torch.library.custom_op("normplugins::opaque_copy", mutates_args=())
def _opaque_copy(x: Tensor) -> Tensor:
    if torch._C._current_graph_task_id() != -1:  # a second forward within a backward would update statistics twice
        raise RuntimeError(
            "activation checkpointing cannot recompute a compiled norm: use either torch.compile or activation "
            "checkpointing, not both"
        )
    return x.clone()


@_opaque_copy.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def opaque_copy(x: Tensor) -> Tensor:
    """Return x or, in a compiled graph, a copy without gradient that is saved for the backward.

    Raises:
        RuntimeError: activation checkpointing runs the compiled graph a second time, or makes its backward recompute x.
    """
    if not torch.compiler.is_compiling():
        return x
    copy: Tensor = _opaque_copy(x.detach())
    return copy
