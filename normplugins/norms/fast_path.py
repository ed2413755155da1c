"""Which code computes a norm: the plain equations in its own file, or operators in fewer passes over memory.

``kernels`` of ``NormConfig`` chooses:

``auto``    in training on a CPU cpu.py; the plain code in everything else
``plain``   the plain code, which is the reference
"""

from types import ModuleType

import torch
from torch import Tensor

KERNELS = ("auto", "plain")


def fast_path(kernels: str, x: Tensor, training: bool) -> ModuleType | None:
    """The module whose functions take over a norm's forward for this x, or None for the plain code.

    What a compiler is tracing is plain: it puts the passes together itself. So is a batch without tokens.
    """
    if kernels == "plain" or torch.compiler.is_compiling() or not x.numel():
        return None
    if x.device.type == "cpu" and training:
        from normplugins.norms import cpu

        return cpu
    return None
