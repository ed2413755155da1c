"""PowerNorm (arXiv 2003.07845, Algorithm 2): the running quadratic mean in the forward, an approximate backward.

For the tokens x of one channel, with psi^2 the running quadratic mean and nu the backward's running quantity:

    x^ = x / sqrt(psi^2 + eps)        y = weight x^ + bias        psi^2 <- a psi^2 + (1 - a) mean(x^2)
    x~ = weight dL/dy - nu x^         dL/dx = x~ / sqrt(psi^2 + eps)      (both psi: before the update)
    nu <- nu + (1 - a) mean(x~ x^)  =  nu (1 - (1 - a) mean(x^ x^)) + (1 - a) mean(weight dL/dy x^)

That is ``pn_alg2``. ``pn``, the code behind the paper's numbers, does more; each difference is a switch:

``group_scaling``        scales each token's channel groups first
``warmup_updates``       while t <= this, divides by the batch's own quadratic mean
``double_update``        while t < this, psi^2 takes psi^2 + (mean(x^2) - psi^2) / t *and then* the update above
``batch_backward``       dL/dx divides by the batch's quadratic mean, always
``padding_in_backward``  normalizes padding like tokens; the backward's means run over all positions
``unscaled_nu``          ``ema_gz`` holds nu / (1 - a)
"""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normplugins.norms.backends.dispatch import fast_path
from normplugins.norms.deferred_residual import DeferredResidual, materialize
from normplugins.norms.group_scaling import check_groups, refuse_group_scaling, scale_groups
from normplugins.norms.registry import register_norm
from normplugins.norms.statistics import (
    RunningNorm,
    count_tokens,
    mean_over,
    recomputing,
    token_rows,
    zero_padding,
)
from normplugins.norms.torch_compile import of_this_forward


class _ApproximateBackward(torch.autograd.Function):
    """y = weight z scale + bias for z (N, C), with the backward of Algorithm 2, which hands ``norm`` mean(x~ x^).

    ``scale`` and ``scale_backward`` (C,) are 1 / psi as the forward and as dL/dx use it; ``positions`` is what the
    backward's means divide by.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor,
        scale_backward: Tensor,
        positions: Tensor,
        norm: "PowerNorm",
    ) -> Tensor:
        ctx.save_for_backward(z, weight, scale, scale_backward, positions)
        ctx.norm = norm  # and not its nu: a norm called twice changes that in the first of the two backwards
        return torch.addcmul(bias, z, weight * scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, scale, scale_backward, positions = ctx.saved_tensors
        nu = ctx.norm.nu.to(z.dtype)
        grad_weight = (g * z).sum(0) * scale
        # mean(x~ x^) = weight mean(dL/dy x^) - nu mean(x^ x^): sums of g z and z z, with no pass for x~ itself
        projection = (weight * grad_weight - nu * z.square().sum(0) * scale.square()) / positions.clamp(min=1)
        ctx.norm.count_backward(positions, projection)
        grad_z = torch.addcmul(z * (-nu * scale * scale_backward), g, weight * scale_backward)
        return grad_z, grad_weight, g.sum(0), None, None, None, None


@register_norm("pn")
@register_norm(
    "pn_alg2",
    warmup_updates=0,
    group_scaling=False,
    double_update=False,
    batch_backward=False,
    padding_in_backward=False,
    unscaled_nu=False,
)
class PowerNorm(RunningNorm):
    """PN of ``dim`` channels over (T, B, C) or (N, C); settings as in ``NormConfig``, defaults as released.

    Buffers ``running_phi`` (C,), psi^2, from 1; ``ema_gz`` (C,), from 0; ``num_updates``, the batches (with
    ``per_update``: the updates) counted. Psi's mean is over real tokens. Padding's output is 0, except with
    ``padding_in_backward``. At evaluation the gradient is that of a fixed psi. Raises ValueError when groups do not
    divide dim, and for ``sync="deferred"`` where something else needs the batch's statistics at once.

    Under activation checkpointing the recomputation takes the psi that the module's latest forward used, so there each
    forward must be followed by its backward before the next.
    """

    statistics: ClassVar[tuple[str, ...]] = ("running_phi", "ema_gz")
    accepts_deferred = True
    running_phi: Tensor
    ema_gz: Tensor
    num_updates: Tensor

    def __init__(
        self,
        dim: int,
        *,
        eps: float = 1e-5,
        groups: int = 4,
        warmup_updates: int = 8000,
        alpha_fwd: float = 0.9,
        alpha_bkw: float = 0.9,
        group_scaling: bool = True,
        double_update: bool = True,
        batch_backward: bool = True,
        padding_in_backward: bool = True,
        unscaled_nu: bool = True,
        sync: str = "none",
        per_update: bool = False,
        kernels: str = "auto",
    ) -> None:
        needs = "needs this batch's statistics; set warmup_updates=0 and batch_backward=false, or use sync=batch"
        super().__init__(dim, eps, sync, per_update, kernels, needs if warmup_updates or batch_backward else "")
        check_groups(dim, groups if group_scaling else 1)
        self.groups, self.warmup_updates = groups, warmup_updates
        self.alpha_fwd, self.alpha_bkw = alpha_fwd, alpha_bkw
        self.group_scaling, self.double_update = group_scaling, double_update
        self.batch_backward, self.padding_in_backward = batch_backward, padding_in_backward
        self.unscaled_nu = unscaled_nu
        self.add_statistic("running_phi", 1.0)
        self.add_statistic("ema_gz", 0.0)
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self._scale: Tensor | None = None  # 1 / psi of the latest forward, for its recomputation
        self._take_pending()

    def forward(self, x: Tensor | DeferredResidual, padding_mask: Tensor | None = None) -> Tensor:
        """Normalize x (T, B, C) or (N, C), or such a sum; in training, count the batch in the running statistics."""
        if fast := fast_path(self.kernels, x, self.training):
            y: Tensor = fast.power_norm(self, x, padding_mask)
            return y
        return self.plain(materialize(x), padding_mask)

    def plain(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Do what ``forward`` does, by the equations."""
        rows, real = token_rows(x, padding_mask, self.dim)
        if not self.padding_in_backward:
            rows = zero_padding(rows, real)
        if self.group_scaling:
            rows = scale_groups(rows, self.groups, self.eps)
        y = self._train(rows, real) if self.training else self.affine(rows, torch.rsqrt(self.running_phi + self.eps))
        if not self.padding_in_backward:
            y = zero_padding(y, real)
        return y.view(x.shape).to(x.dtype)

    def fixed_affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (C,), in float64, of what evaluation does to a token; ValueError with group scaling."""
        refuse_group_scaling(self.group_scaling)
        return self.weight.double() * torch.rsqrt(self.running_phi.double() + self.eps), self.bias.double()

    def _train(self, rows: Tensor, real: Tensor | None) -> Tensor:
        with torch.no_grad():
            count = count_tokens(rows, real)
            batch_phi = mean_over(zero_padding(rows, real).square(), count)
            scale, scale_backward = self.update_quadratic_mean(count, batch_phi)
            scale_backward = scale_backward.clone()  # where it is ``scale``: a compiler takes no tensor twice
            positions = count_tokens(rows, None if self.padding_in_backward else real)
        y: Tensor = _ApproximateBackward.apply(  # type: ignore[no-untyped-call]
            rows, self.weight.to(rows.dtype), self.bias.to(rows.dtype), scale, scale_backward, positions, self
        )
        return y

    @torch.no_grad()
    def update_quadratic_mean(
        self, count: Tensor, batch_phi: Tensor, scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Count a batch's quadratic mean (C,); returns 1 / psi (C,) of the forward and of dL/dx.

        ``scale`` is that of the forward where the caller has asked for :meth:`known_scale` before.
        """
        count, batch_phi = self.over_processes(count, batch_phi)
        if self.warmup_updates or self.batch_backward:
            batch_phi = of_this_forward(torch.where(count > 0, batch_phi, self.running_phi.to(batch_phi.dtype)))
        if scale is None:
            scale = self.known_scale()
        if scale is None:
            phi = torch.where(self.num_updates < self.warmup_updates, batch_phi, self.running_phi)
            scale = torch.rsqrt(phi + self.eps)
        if not recomputing() or self._scale is None:
            self._scale = of_this_forward(scale)
            self.update_running_stats(count, batch_phi)
        scale = self._scale.to(batch_phi.dtype)
        return scale, torch.rsqrt(batch_phi + self.eps) if self.batch_backward else scale

    def known_scale(self) -> Tensor | None:
        """1 / psi (C,) of this forward; None where the batch may decide it."""
        if recomputing() and self._scale is not None:
            return self._scale
        return None if self._may_warm_up() else torch.rsqrt(self.running_phi + self.eps)

    def _may_warm_up(self) -> bool:
        """Whether the warmup may still go on: a CPU is asked, of a GPU the host would have to wait for the answer."""
        if not self.warmup_updates or not self.num_updates.is_cpu or torch.compiler.is_compiling():
            return bool(self.warmup_updates)
        return int(self.num_updates) < self.warmup_updates

    def step(self, count: Tensor, *moments: Tensor) -> None:
        """Update psi^2 and the update count with a batch's psi^2, if the batch has a token."""
        phi, counts = self.running_phi, count > 0
        batch = moments[0].to(phi.dtype)
        newest = (1 - self.alpha_fwd) * counts.to(phi.dtype)
        if self._may_warm_up():
            t = self.num_updates + 1
            warming = counts & (t < self.warmup_updates)
            phi.lerp_(batch, torch.where(warming, t.to(phi.dtype).reciprocal(), 0))
            newest = newest if self.double_update else torch.where(warming, 0, newest)
        phi.lerp_(batch, newest)
        self.num_updates.add_(counts)

    @property
    def nu(self) -> Tensor:
        """The running quantity of the backward, (C,); a copy."""
        return self.ema_gz * (1 - self.alpha_bkw) if self.unscaled_nu else self.ema_gz.clone()

    @torch.no_grad()
    def count_backward(self, positions: Tensor, projection: Tensor) -> None:
        """Count mean(x~ x^) (C,) over so many positions in nu, now or at the end of the update."""
        if not self._estimating:
            self._count("step_backward", *self.over_processes(positions, projection))

    def _take_pending(self) -> dict[str, Tensor]:
        taken = super()._take_pending()
        if self.per_update:  # there before the backward, which adds to it
            self._pending["step_backward"] = self.bias.new_zeros(1 + self.dim, dtype=torch.float64)
        return taken

    def step_backward(self, positions: Tensor, projection: Tensor) -> None:  # noqa: ARG002
        """nu <- nu + (1 - a) mean(x~ x^)."""
        self.ema_gz.add_(projection.to(self.ema_gz.dtype), alpha=1.0 if self.unscaled_nu else 1 - self.alpha_bkw)
