"""The backward of the norms on a GPU, as an autograd function around a forward that has already run.

Let x^ = z / psi, for the N tokens of all processes. The exact backward through the batch's statistics (arXiv
1502.03167; PN-V, arXiv 2003.07845, has no shift) is

    dL/dweight = sum g x^      dL/dbias = sum g      nu = mean(weight g x^)      shift = mean(weight g)
    dL/dz = (weight g - nu x^ - shift) / psi

nu and shift depend on all tokens, so the backward makes two passes, one over g and x and one over g, x and dL/dx: 5 N C
e bytes for elements of e bytes. With fixed statistics, or statistics of each token, both are 0 and one pass is enough:
3 N C e. PN's approximate backward also needs one pass only, because it uses the nu of the previous step.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normplugins.norms.backends.triton.channelwise import backward, end_backward
from normplugins.norms.backends.triton.tiles import BACKWARD_THREADS, Layout
from normplugins.norms.distributed import sum_over_processes
from normplugins.norms.power_norm import PowerNorm


@dataclass(frozen=True)
class Statistics:
    """The statistics in y = weight z / sqrt(psi2 + eps) + bias, where z = x - mean if there is a mean.

    ``count`` (scalar) is the number of tokens in psi2 and the mean, or None if these are fixed; with ``synchronizes``
    it counts the tokens of all processes. ``approximate`` is the PN whose approximate backward is used: dL/dz is then
    divided by sqrt(psi2_backward + eps), and ``count`` serves only to update nu.
    """

    mean: Tensor | None = None
    psi2: Tensor | None = None
    count: Tensor | None = None
    synchronizes: bool = False
    approximate: PowerNorm | None = None
    psi2_backward: Tensor | None = None


class Backward(torch.autograd.Function):
    """Attach the backward to y, the normalized x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        done: tuple[Tensor, Layout, Statistics],
    ) -> Tensor:
        """Return y; x is contiguous."""
        y, layout, used = done
        mean, psi2 = used.mean, used.psi2
        if used.count is None and used.approximate is None and any(ctx.needs_input_grad):
            # the backward needs these values, which later updates change
            mean, psi2 = (None if each is None else each.clone() for each in (mean, psi2))
        ctx.save_for_backward(x, weight, bias, mean, psi2, used.psi2_backward, used.count)
        ctx.layout, ctx.norm, ctx.synchronizes = layout, used.approximate, used.synchronizes
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Return dL/dx, dL/dweight and dL/dbias from dL/dy."""
        x, weight, bias, mean, psi2, psi2_backward, count = ctx.saved_tensors
        layout, norm = ctx.layout, ctx.norm
        dx = torch.empty_like(x)
        grad_weight, grad_bias = torch.empty_like(weight), None if bias is None else torch.empty_like(bias)
        given = {
            "g": g.contiguous(), "x": x, "weight": weight, "mean": mean, "psi2": psi2,
            "psi2_backward": psi2 if norm is None else psi2_backward, **layout.scaling(),
        }  # fmt: skip
        nu, nu_scale, new_weight = None, 1.0, 1.0
        means: Any = None
        exact = norm is None and count is not None
        if exact:
            means = layout.empty(1 if mean is None else 2, layout.dim)
        elif norm is not None:
            nu, new_weight = norm.ema_gz, 1 - norm.alpha_bkw
            if norm.unscaled_nu:
                nu_scale, new_weight = new_weight, nu_scale
            if norm.padding_in_backward:
                count = None
            means = None if norm.updates_immediately else layout.empty(1, layout.dim)
        sums = layout.table(2 if norm is None else 3, BACKWARD_THREADS)
        layout.over_tokens(
            backward, sums.size(1), **given, dx=None if exact else dx, sums=sums, nu=nu, NU_SCALE=nu_scale
        )
        layout.over_channels(
            end_backward, sums=sums, grad_weight=grad_weight, grad_bias=grad_bias, weight=weight, psi2=psi2,
            count=count, programs=sums.size(1), means=means, nu=nu, NU_SCALE=nu_scale, NEW_WEIGHT=new_weight,
            CENTRED=mean is not None, EPS=layout.eps,
        )  # fmt: skip
        if exact:
            nu, *shift = sum_over_processes(means) if ctx.synchronizes else means
            programs = layout.programs(BACKWARD_THREADS)
            layout.over_tokens(backward, programs, **given, dx=dx, nu=nu, shift=shift[0] if shift else None)
        elif means is not None:
            norm.update_nu(means.new_full((), layout.tokens) if count is None else count, means[0])
        return dx, grad_weight, grad_bias, None
