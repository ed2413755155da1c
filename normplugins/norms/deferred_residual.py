"""The sum of a residual connection, left to the norm after it, which may add it up in the pass that normalizes it."""

from torch import Tensor
from torch.nn import functional as F

LEVELS = 1 << 16
"""Where kernels draw dropout's masks, its probabilities are multiples of 1 / LEVELS."""


class DeferredResidual:
    """residual + dropout(update, p) in training, for two tensors of one shape and dtype, added up when it is needed.

    Norms with ``accepts_deferred`` take it in place of a tensor, and its value is known afterwards. Whether they add it
    up in a pass that they make anyway, which depends on the device, is for ``fast_path.fuses_residual`` to say.
    """

    def __init__(self, residual: Tensor, update: Tensor, p: float) -> None:
        self.residual, self.p = residual, p
        self.update: Tensor | None = update

    @property
    def value(self) -> Tensor:
        """The sum. It is added up here, by PyTorch's operations, unless a norm has done so."""
        if self.update is not None:
            self.set_value(self.residual + F.dropout(self.update, self.p))
        return self.residual

    def set_value(self, value: Tensor) -> None:
        """Take note of what it came to; the update is held no longer."""
        self.residual, self.update = value, None


def materialize(x: Tensor | DeferredResidual) -> Tensor:
    """What x is or comes to."""
    return x.value if isinstance(x, DeferredResidual) else x
