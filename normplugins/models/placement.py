"""Where a layer's norms stand around its sublayers, and the scales and initialization that each placement needs.

With a sublayer f, norms N and dropout D, the layers' input x becomes

    pre        x + D(f(N(x)))                  a norm at the end of the stack
    post       N(x + D(f(x)))                  (arXiv 1706.03762)
    sandwich   x + D(N'(f(N(x))))              a norm at the end (arXiv 2105.13290)
    peri       x + D(N'(f(N(x))))              a norm at the end, and one of the embeddings (arXiv 2502.02732)
    deepnorm   N(alpha x + D(f(x)))            weights of values, outputs and feed-forward layers scaled by beta
                                               (arXiv 2203.00555, with alpha and beta from the depth)
"""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Placement:
    """A placement of norms in a stack.

    Attributes:
        pre_norm: the input of each sublayer and the output of the stack are normalized. If false, the sum of a
            sublayer's output and the residual is normalized (post-norm).
        output_norm: a second norm is applied to the output of each sublayer, before the residual is added.
        embeddings: the embeddings are normalized.
        scale: alpha, the factor of the residual.
        gain: beta, the factor of the initial weights of values, outputs and feed-forward layers; None leaves a
            sublayer's own initialization.
    """

    pre_norm: bool
    output_norm: bool = False
    embeddings: bool = False
    scale: float = 1.0
    gain: float | None = None


PLACEMENTS = {
    "pre": Placement(pre_norm=True),
    "post": Placement(pre_norm=False),
    "sandwich": Placement(pre_norm=True, output_norm=True),
    "peri": Placement(pre_norm=True, output_norm=True, embeddings=True),
    "deepnorm": Placement(pre_norm=False),
}


def deepnorm(layers: int, other: int | None, encoder: bool = False) -> Placement:
    """Return DeepNorm for a stack with this number of ``layers`` (Table 2 of the paper).

    ``other`` is the number of layers of the other stack, None in a language model; ``encoder`` says whether this stack
    is the encoder.
    """
    if other is None:
        scale, gain = (2 * layers) ** 0.25, (8 * layers) ** -0.25
    elif encoder:
        depth = (layers**4 * other) ** (1 / 16)
        scale, gain = 0.81 * depth, 0.87 / depth
    else:
        scale, gain = (3 * layers) ** 0.25, (12 * layers) ** -0.25
    return Placement(pre_norm=False, scale=scale, gain=gain)


def initialize(sublayer: nn.Module, placement: Placement) -> None:
    """Initialize a sublayer's weights as DeepNorm does: Xavier-normal with gain beta, for queries and keys gain 1."""
    if placement.gain is None:
        return
    for name, linear in sublayer.named_modules():
        if not isinstance(linear, nn.Linear):
            continue
        attention = {"qkv": 3, "q": 1, "kv": 2}.get(name)  # the projections that are packed into one weight
        parts = linear.weight.detach().chunk(attention or 1)
        for index, weight in enumerate(parts):
            value_or_other = attention is None or (name in ("qkv", "kv") and index == len(parts) - 1)
            nn.init.xavier_normal_(weight, gain=placement.gain if value_or_other else 1.0)
