"""No normalization: y = x."""

from torch import Tensor, nn

from normplugins.norms.registry import NoSettings, register_norm


@register_norm("none")
class Identity(nn.Module):
    """No normalization.

    It has no parameters and no buffers; ``dim`` is an argument because every norm takes it.
    """

    def __init__(self, dim: int, settings: NoSettings) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return x itself."""
        return x
