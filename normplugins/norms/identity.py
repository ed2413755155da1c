"""No normalization: y = x."""

from torch import Tensor, nn

from normplugins.norms.registry import register_norm


@register_norm("none")
class Identity(nn.Module):
    """Give x back. No parameters, no buffers; ``dim`` is there because every norm takes it."""

    def __init__(self, dim: int) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return x itself."""
        return x
