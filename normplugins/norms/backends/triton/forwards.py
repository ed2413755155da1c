"""The forwards of ``pn``, ``pn_alg2``, ``pnv``, ``bn`` and ``rms`` on a GPU.

Each takes x (T, B, C) with padding_mask (B, T), or x (N, C) with padding_mask (N,). It accepts a DeferredResidual in
place of x, and computes the sum in a pass over x that it makes anyway.
"""

from torch import Tensor

from normplugins.norms.backends.triton import batch_norm as bn
from normplugins.norms.backends.triton import power_norm as pn
from normplugins.norms.backends.triton.exact import Exact
from normplugins.norms.backends.triton.residual import Source
from normplugins.norms.backends.triton.tiles import WIDEST, Channels, Tokens
from normplugins.norms.batch_norm import BatchNorm
from normplugins.norms.deferred_residual import DeferredResidual, materialize
from normplugins.norms.power_norm import PowerNorm
from normplugins.norms.power_norm_v import PowerNormV
from normplugins.norms.rms_norm import RMSNorm


def power_norm(norm: PowerNorm, x: Tensor | DeferredResidual, padding_mask: Tensor | None = None) -> Tensor:
    """PN; groups of more than ``WIDEST`` channels use plain code."""
    settings = norm.settings
    channels = Channels.of(x, norm.eps, settings.groups if settings.group_scaling else 0, settings.padding_in_backward)
    if channels.tiles.columns > WIDEST:
        return norm.plain(materialize(x), padding_mask)
    source = Source.of(x)
    inputs, tokens = (source.x, source.update, norm.weight, norm.bias), Tokens.of(source.x, padding_mask, norm.dim)
    if norm.training:
        return _set_value(x, *pn.Approximate.apply(*inputs, source, tokens, channels, norm))
    return _set_value(x, *Exact.apply(*inputs, None, norm.running_phi, None, False, source, tokens, channels))


def power_norm_v(norm: PowerNormV, x: Tensor | DeferredResidual, padding_mask: Tensor | None = None) -> Tensor:
    """PN-V; groups of more than ``WIDEST`` channels use plain code."""
    channels = Channels.of(x, norm.eps, norm.settings.groups if norm.settings.group_scaling else 0)
    if channels.tiles.columns > WIDEST:
        return norm.plain(materialize(x), padding_mask)
    source = Source.of(x)
    inputs, tokens = (source.x, source.update, norm.weight, norm.bias), Tokens.of(source.x, padding_mask, norm.dim)
    count, psi2 = None, norm.running_phi
    if norm.training:
        count, psi2 = pn.batch_psi2(norm, source, tokens, channels)
        source = source.read()
    return _set_value(x, *Exact.apply(*inputs, None, psi2, count, norm.synchronizes, source, tokens, channels))


def batch_norm(norm: BatchNorm, x: Tensor | DeferredResidual, padding_mask: Tensor | None = None) -> Tensor:
    """BN; both of its switches use plain code."""
    if norm.settings.group_scaling or norm.settings.padding_filled:
        return norm.plain(materialize(x), padding_mask)
    source, channels = Source.of(x), Channels.of(x, norm.eps)
    inputs, tokens = (source.x, source.update, norm.weight, norm.bias), Tokens.of(source.x, padding_mask, norm.dim)
    count, mean, var = None, norm.running_mean, norm.running_var
    if norm.training:
        count, mean, var = bn.batch_moments(norm, source, tokens, channels)
        source = source.read()
    return _set_value(x, *Exact.apply(*inputs, mean, var, count, norm.synchronizes, source, tokens, channels))


def rms_norm(norm: RMSNorm, x: Tensor | DeferredResidual, padding_mask: Tensor | None = None) -> Tensor:
    """RMSNorm of x (..., C): to the kernels a group scaling without psi, with a channel group in each tile.

    It moves 2 N C e bytes forward and 3 N C e backward, in 3 launches.
    """
    channels = Channels.of(x, norm.eps, groups=norm.groups)
    if channels.tiles.columns > WIDEST:
        return norm.plain(materialize(x), padding_mask)
    source = Source.of(x)
    inputs, tokens = (
        (source.x, source.update, norm.weight, None),
        Tokens.of(source.x.view(-1, channels.dim), None, norm.weight.numel()),
    )
    return _set_value(x, *Exact.apply(*inputs, None, None, None, False, source, tokens, channels))


def _set_value(x: Tensor | DeferredResidual, y: Tensor, value: Tensor | None) -> Tensor:
    """Return y, the norm of x, after setting the value of a sum."""
    if isinstance(x, DeferredResidual) and value is not None:
        x.set_value(value)
    return y


FORWARDS = {PowerNorm: power_norm, PowerNormV: power_norm_v, BatchNorm: batch_norm, RMSNorm: rms_norm}
