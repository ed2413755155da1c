"""The forward of ``pn``, ``pn_alg2``, ``pnv``, ``bn`` and ``rms`` on a GPU."""

import torch
from torch import Tensor

from normplugins.norms.backends.triton import channelwise
from normplugins.norms.backends.triton.autograd import Backward, Statistics
from normplugins.norms.backends.triton.batch_norm import update_batch_norm
from normplugins.norms.backends.triton.power_norm import update_power_norm, update_power_norm_v
from normplugins.norms.backends.triton.tiles import FORWARD_THREADS, WIDEST, Layout, cut_tiles
from normplugins.norms.base import check_input
from normplugins.norms.batch_norm import BatchNorm
from normplugins.norms.power_norm import PowerNorm
from normplugins.norms.power_norm_v import PowerNormV
from normplugins.norms.rms_norm import RMSNorm


def forward(
    norm: PowerNorm | PowerNormV | BatchNorm | RMSNorm, x: Tensor, padding_mask: Tensor | None = None
) -> Tensor:
    """Normalize x (T, B, C) with padding_mask (B, T), or x (N, C) with padding_mask (N,); with RMSNorm x (..., C).

    The kernels treat RMSNorm as group scaling without psi, with one channel group per tile; for elements of e bytes it
    moves 2 N C e bytes forward and 3 N C e backward, in 3 launches. Groups of more than ``WIDEST`` channels fall back
    to the plain code.
    """
    alone, groups = isinstance(norm, RMSNorm), norm.groups
    if not alone and not norm.group_scaling:
        groups = 0
    if cut_tiles(norm.dim, groups).columns > WIDEST:
        return norm.plain(x, padding_mask)
    check_input(x, norm.dim, flat=not alone)
    x = x.contiguous()
    rows = x.detach().view(-1, x.size(-1)) if alone else x.detach()
    padding_mask = None if alone else padding_mask
    as_tokens = isinstance(norm, PowerNorm) and norm.padding_in_backward
    layout = Layout(rows.shape, rows.device, rows.dtype, padding_mask, norm.eps, groups, as_tokens)
    y, bias = torch.empty_like(x), getattr(norm, "bias", None)
    if isinstance(norm, PowerNorm) and norm.training:
        used = update_power_norm(norm, rows, layout, y)
    else:
        used = _statistics(norm, rows, layout)
        layout.over_tokens(
            channelwise.forward, layout.programs(FORWARD_THREADS), **layout.scaling(), x=rows, y=y, weight=norm.weight,
            bias=bias, mean=used.mean, psi2=used.psi2,
        )  # fmt: skip
    return Backward.apply(x, norm.weight, bias, (y, layout, used))


def _statistics(norm: PowerNorm | PowerNormV | BatchNorm | RMSNorm, x: Tensor, layout: Layout) -> Statistics:
    """Return the statistics that y is computed with; in training, update the running statistics first."""
    if isinstance(norm, BatchNorm):
        fixed = Statistics(norm.running_mean, norm.running_var)
        return update_batch_norm(norm, x, layout) if norm.training else fixed
    if isinstance(norm, PowerNormV) and norm.training:
        return update_power_norm_v(norm, x, layout)
    return Statistics() if isinstance(norm, RMSNorm) else Statistics(psi2=norm.running_phi)


FORWARDS = dict.fromkeys((PowerNorm, PowerNormV, BatchNorm, RMSNorm), forward)
