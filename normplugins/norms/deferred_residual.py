"""The sum of a residual connection, deferred to the following norm, which may compute it in its own pass."""

from torch import Size, Tensor
from torch.nn import functional as F

LEVELS = 1 << 16
"""Kernels that draw dropout masks round the probability to a multiple of 1 / LEVELS."""


class DeferredResidual:
    """The sum residual + dropout(update, p) in training, computed when it is needed.

    Both tensors have the same shape and dtype. Norms with fast code take a deferred sum in place of a tensor; after
    their forward, ``value`` is known. Whether a norm computes the sum within a pass of its own depends on the device;
    see ``backends.dispatch.fuses_residual``.
    """

    def __init__(self, residual: Tensor, update: Tensor, p: float) -> None:
        self.residual, self.p = residual, p
        self.update: Tensor | None = update

    @property
    def shape(self) -> Size:
        """The shape of the sum."""
        return self.residual.shape

    @property
    def value(self) -> Tensor:
        """The sum. Unless a norm has set it already, PyTorch operations compute it here."""
        if self.update is not None:
            self.set_value(self.residual + F.dropout(self.update, self.p))
        return self.residual

    def set_value(self, value: Tensor) -> None:
        """Store the computed sum and release the update."""
        self.residual, self.update = value, None


def materialize(x: Tensor | DeferredResidual) -> Tensor:
    """Return x if it is a tensor, and the value of a deferred sum."""
    return x.value if isinstance(x, DeferredResidual) else x
