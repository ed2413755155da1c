"""The autograd function of norms with an exact backward, through the batch's statistics or with fixed ones.

With x^ = z / psi, of N tokens of all processes (arXiv 1502.03167; PN-V, arXiv 2003.07845, has no shift):

    dL/dweight = sum g x^      dL/dbias = sum g      nu = mean(weight g x^)      shift = mean(weight g)
    dL/dz = (weight g - nu x^ - shift) / psi

nu and shift depend on all tokens, so the backward takes two passes, one over g and x and one over g, x and dL/dx:
5 N C e bytes. With fixed statistics, or statistics of each token, both are 0 and one pass is enough: 3 N C e.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normplugins.norms.backends.triton.channelwise import end_backward, run_backward, run_forward
from normplugins.norms.backends.triton.residual import Drawn, Gradients, Source
from normplugins.norms.backends.triton.tiles import BACKWARD_THREADS, Channels, Tokens
from normplugins.norms.distributed import sum_over_processes


class Exact(torch.autograd.Function):
    """y = weight z / sqrt(psi2 + eps) + bias for contiguous x, z = x - mean if there is a mean.

    With an update the input is x + dropout(update); ``source`` reads it, whether the sum is computed already or not.
    ``count`` is the number of tokens (scalar) in psi2 and the mean, or None if they are fixed; with ``synchronizes``
    these are the tokens of all processes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        update: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        mean: Tensor | None,
        psi2: Tensor | None,
        count: Tensor | None,
        synchronizes: bool,
        source: Source,
        tokens: Tokens,
        channels: Channels,
    ) -> tuple[Tensor, Tensor | None]:
        """Return y, of x's dtype, and the sum if there is an update."""
        y = torch.empty_like(x)
        run_forward(channels, tokens, source, y, weight=weight, bias=bias, psi2=psi2, mean=mean)
        if count is None and any(ctx.needs_input_grad):  # the backward needs the values before later updates
            mean, psi2 = (None if each is None else each.clone() for each in (mean, psi2))
        ctx.synchronizes = synchronizes
        save_for_backward(ctx, source, tokens, channels, weight, bias, mean, psi2, count)
        return y, None if update is None else source.value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, arriving: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return dL/dx, dL/dupdate, dL/dweight and dL/dbias from dL/dy and the other gradient of the sum."""
        g, wanted, x, weight, bias, mean, psi2, count = start_backward(ctx, g, arriving)
        channels, tokens = ctx.channels, ctx.tokens
        sums = channels.table(x, tokens, 2, BACKWARD_THREADS)
        grads = torch.empty_like(weight), None if bias is None else torch.empty_like(bias)
        means = None if count is None else channels.empty(x, 1 if mean is None else 2, channels.dim)
        fixed = {"weight": weight, "psi2": psi2, "psi2_backward": psi2, "mean": mean}
        run_backward(channels, tokens, g, x, wanted if count is None else Gradients(), sums, **fixed)
        channels.over_channels(
            end_backward, x, sums=sums, grad_weight=grads[0], grad_bias=grads[1], weight=weight, psi2=psi2,
            count=count, tokens=tokens.count, programs=sums.size(1), means=means, nu=None,
            NU_SCALE=1.0, NEW_WEIGHT=1.0, CENTRED=mean is not None, EPS=channels.eps,
        )  # fmt: skip
        if means is not None:
            nu, *shift = sum_over_processes(means) if ctx.synchronizes else means
            run_backward(channels, tokens, g, x, wanted, **fixed, nu=nu, shift=shift[0] if shift else None)
        return *wanted.of_parts(ctx.needs_input_grad[1]), *grads, None, None, None, None, None, None, None


def save_for_backward(ctx: Any, source: Source, tokens: Tokens, channels: Channels, *tensors: Tensor | None) -> None:
    """Save what every backward needs: the normalized tensor, the seed of its dropout, and ``tensors``."""
    ctx.save_for_backward(source.value, source.drawn.seed, *tensors)
    ctx.tokens, ctx.channels, ctx.dropped = tokens, channels, source.drawn.dropped
    ctx.set_materialize_grads(False)  # post-norm the sum has no other gradient


def start_backward(ctx: Any, g: Tensor | None, arriving: Tensor | None) -> tuple[Any, ...]:
    """Return dL/dy, the gradients of x to compute, the normalized tensor x, and the ``tensors`` that were saved."""
    x, seed, *tensors = ctx.saved_tensors
    g = torch.zeros_like(x) if g is None else g.contiguous()
    return g, Gradients.of(x, arriving, Drawn(seed, ctx.dropped)), x, *tensors
