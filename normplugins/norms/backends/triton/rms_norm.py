"""RMSNorm on a GPU: 2 N C e bytes forward, 3 N C e backward, 3 launches. ``RMSNorm`` one folder up is the reference.

To the kernels it is a group scaling without a psi: a tile holds one group of channels, by default all of them.
"""

from torch import Tensor

from normplugins.norms.backends.triton.channels import Channels
from normplugins.norms.backends.triton.exact import Exact
from normplugins.norms.backends.triton.residual import Source, normalized
from normplugins.norms.backends.triton.tiles import WIDEST, Tokens
from normplugins.norms.deferred_residual import DeferredResidual, materialize
from normplugins.norms.rms_norm import RMSNorm


def rms_norm(norm: RMSNorm, x: Tensor | DeferredResidual, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """What ``norm(x)`` is, x (..., C). No token sees another, so the padding mask is not read."""
    channels = Channels.of(x, norm.eps, groups=norm.groups)
    if channels.tiles.columns > WIDEST:
        return norm.plain(materialize(x))
    source = Source.of(x)
    tokens = Tokens.of(source.x.view(-1, channels.dim), None, norm.weight.numel())
    inputs = source.x, source.update, norm.weight, None
    return normalized(x, *Exact.apply(*inputs, None, None, None, False, source, tokens, channels))
