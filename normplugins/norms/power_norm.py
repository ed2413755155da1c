"""PowerNorm (arXiv 2003.07845, Algorithm 2): the running quadratic mean in the forward, an approximate backward.

For the tokens x of one channel, with psi^2 the running quadratic mean and nu the running quantity of the backward:

    x^ = x / sqrt(psi^2 + eps)        y = weight x^ + bias        psi^2 <- a psi^2 + (1 - a) mean(x^2)
    x~ = weight dL/dy - nu x^         dL/dx = x~ / sqrt(psi^2 + eps)      (both with psi before the update)
    nu <- nu + (1 - a) mean(x~ x^)  =  nu (1 - (1 - a) mean(x^ x^)) + (1 - a) mean(weight dL/dy x^)

This is ``pn_alg2``. ``pn``, the code behind the paper's numbers, does more; each difference is a switch in
:class:`PowerNormSettings`. Fast code: ``backends/cpu/forwards.py`` and ``backends/triton/forwards.py``.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normplugins.norms.backends.dispatch import Dispatched
from normplugins.norms.group_scaling import scale_groups
from normplugins.norms.quadratic_mean import QuadraticMeanNorm
from normplugins.norms.registry import register_norm
from normplugins.norms.settings import (
    GROUP_SCALING,
    EpsSettings,
    GroupScalingSettings,
    KernelSettings,
    RunningSettings,
    setting,
)
from normplugins.norms.statistics import recomputing
from normplugins.norms.tokens import count_tokens, mean_over, token_rows, zero_padding
from normplugins.norms.torch_compile import opaque_copy


@dataclass(frozen=True)
class PowerNormSettings(GroupScalingSettings, KernelSettings, RunningSettings, EpsSettings):
    """Settings of ``pn`` and ``pn_alg2``; the defaults are those of the released code."""

    alpha_fwd: float = setting(0.9, "decay of the running quadratic mean psi^2", minimum=0, below=1)
    alpha_bkw: float = setting(0.9, "decay of nu, the running quantity of the approximate backward", minimum=0, below=1)
    warmup_updates: int = setting(
        8000, "number of initial updates in which the forward divides by the batch's quadratic mean", minimum=0
    )
    group_scaling: bool = setting(True, GROUP_SCALING)
    double_update: bool = setting(
        True,
        "before the last warmup update, psi^2 is updated with the cumulative mean and then with the decayed mean; "
        "off: with the cumulative mean only",
        switch="warmup_updates",
    )
    batch_backward: bool = setting(
        True, "dL/dx is divided by the batch's quadratic mean; off: by the psi of the forward"
    )
    padding_in_backward: bool = setting(
        True, "padding is normalized like a token and counts in the means of the backward, dL/dweight and dL/dbias"
    )
    unscaled_nu: bool = setting(
        True,
        "ema_gz stores nu / (1 - alpha_bkw), to which mean(x~ x^) is added without a factor; off: it stores nu. The "
        "results are the same up to rounding",
    )


class _ApproximateBackward(torch.autograd.Function):
    """y = weight z scale + bias, with the backward of Algorithm 2, which passes mean(x~ x^) to ``norm``.

    z (N, C) is the input x, after group scaling if there is one. ``scale`` and ``scale_backward`` (C,) are the 1 / psi
    of the forward and of dL/dx; ``positions`` is the number of positions in the means of the backward.
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
        ctx.norm = norm  # not its nu: if a norm is called twice, one backward changes the nu of the other
        return torch.addcmul(bias, z, weight * scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, scale, scale_backward, positions = ctx.saved_tensors
        nu = ctx.norm.nu.to(z.dtype)
        grad_weight = (g * z).sum(0) * scale
        # mean(x~ x^) = weight mean(dL/dy x^) - nu mean(x^ x^) needs sums of g z and z z, and no pass over x~ itself
        projection = (weight * grad_weight - nu * z.square().sum(0) * scale.square()) / positions.clamp(min=1)
        ctx.norm.update_nu(positions, projection)
        grad_z = torch.addcmul(z * (-nu * scale * scale_backward), g, weight * scale_backward)
        return grad_z, grad_weight, g.sum(0), None, None, None, None


@register_norm("pn", PowerNormSettings, summary="PN as released: the code behind the published numbers.")
@register_norm(
    "pn_alg2",
    PowerNormSettings,
    summary="PN as Algorithm 2 of the paper writes it: ``pn`` with every switch off.",
    warmup_updates=0,
    group_scaling=False,
    double_update=False,
    batch_backward=False,
    padding_in_backward=False,
    unscaled_nu=False,
)
class PowerNorm(Dispatched, QuadraticMeanNorm):
    """PN of each channel over the tokens of past batches.

    ``weight`` and ``bias`` (C,) start at 1 and 0. Buffers: ``running_phi`` (C,) is psi^2 and starts at 1; ``ema_gz``
    (C,) stores nu and starts at 0; ``num_updates`` is the number of batches (with ``per_update``: of updates) that have
    entered psi^2. psi^2 is a mean over real tokens only. The output at padding is 0, except with
    ``padding_in_backward``. At evaluation the gradient is the exact one for a fixed psi.

    Under activation checkpointing the recomputation uses the psi of the module's latest forward, so each forward must
    be followed by its backward before the next forward.

    Raises:
        ValueError: the groups do not divide dim, or ``sync="deferred"`` with a setting that needs the batch's
            statistics immediately.
    """

    statistics: ClassVar[tuple[str, ...]] = (*QuadraticMeanNorm.statistics, "ema_gz")
    updates_in_backward: ClassVar[bool] = True
    has_final_warmup: ClassVar[bool] = True
    ema_gz: Tensor
    num_updates: Tensor
    alpha_fwd: float
    alpha_bkw: float
    warmup_updates: int
    group_scaling: bool
    groups: int
    double_update: bool
    batch_backward: bool
    padding_in_backward: bool
    unscaled_nu: bool

    def __init__(self, dim: int, settings: PowerNormSettings) -> None:
        super().__init__(dim, settings)
        self.add_statistic("ema_gz", 0.0)
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self._scale: Tensor | None = None  # 1 / psi of the latest forward, for its recomputation

    @property
    def not_deferrable(self) -> str:
        """Why ``sync="deferred"`` is refused: the settings that need the batch's statistics immediately."""
        if self.warmup_updates or self.batch_backward:
            return "needs this batch's statistics; set warmup_updates=0 and batch_backward=false, or use sync=batch"
        return ""

    def plain(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Normalize x (T, B, C) or (N, C); in training, update the running statistics."""
        rows, real = token_rows(x, padding_mask, self.dim)
        if not self.padding_in_backward:
            rows = zero_padding(rows, real)
        if self.group_scaling:
            rows = scale_groups(rows, self.groups, self.eps)
        y = self._train(rows, real) if self.training else self.affine(rows, torch.rsqrt(self.running_phi + self.eps))
        if not self.padding_in_backward:
            y = zero_padding(y, real)
        return y.view(x.shape).to(x.dtype)

    def _train(self, rows: Tensor, real: Tensor | None) -> Tensor:
        with torch.no_grad():
            count = count_tokens(rows, real)
            batch_phi = mean_over(zero_padding(rows, real).square(), count)
            scale, scale_backward = self.update_quadratic_mean(count, batch_phi)
            scale_backward = scale_backward.clone()  # it may be ``scale``, and a compiler accepts no tensor twice
            positions = count_tokens(rows, None if self.padding_in_backward else real)
        y: Tensor = _ApproximateBackward.apply(  # type: ignore[no-untyped-call]
            rows, self.weight.to(rows.dtype), self.bias.to(rows.dtype), scale, scale_backward, positions, self
        )
        return y

    @torch.no_grad()
    def update_quadratic_mean(
        self, count: Tensor, batch_phi: Tensor, scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Update psi^2 with a batch's quadratic mean (C,); return 1 / psi (C,) of the forward and of dL/dx.

        ``scale`` is the result of :meth:`scale_without_batch`, if the caller has already called it.
        """
        count, batch_phi = self.synchronize(count, batch_phi)
        if self.warmup_updates or self.batch_backward:
            batch_phi = opaque_copy(torch.where(count > 0, batch_phi, self.running_phi.to(batch_phi.dtype)))
        if scale is None:
            scale = self.scale_without_batch()
        if scale is None:
            phi = torch.where(self.num_updates < self.warmup_updates, batch_phi, self.running_phi)
            scale = torch.rsqrt(phi + self.eps)
        if not recomputing() or self._scale is None:
            self._scale = opaque_copy(scale)
            self.update_running_stats(count, batch_phi)
        scale = self._scale.to(batch_phi.dtype)
        return scale, torch.rsqrt(batch_phi + self.eps) if self.batch_backward else scale

    def scale_without_batch(self) -> Tensor | None:
        """Return 1 / psi (C,) of this forward, or None if it may depend on the batch."""
        if recomputing() and self._scale is not None:
            return self._scale
        return None if self._may_warm_up() else torch.rsqrt(self.running_phi + self.eps)

    def _may_warm_up(self) -> bool:
        """Whether the norm may still be in its warmup; exact only on a CPU, as the host must not wait for a GPU."""
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
        """A copy of the running quantity of the backward, (C,)."""
        return self.ema_gz * (1 - self.alpha_bkw) if self.unscaled_nu else self.ema_gz.clone()

    @torch.no_grad()
    def update_nu(self, positions: Tensor, projection: Tensor) -> None:
        """Update nu with mean(x~ x^) (C,) over ``positions`` positions, now or at the end of the update."""
        self.update_after_backward(*self.synchronize(positions, projection))

    def step_backward(self, positions: Tensor, projection: Tensor) -> None:  # noqa: ARG002
        """Set nu = nu + (1 - a) mean(x~ x^)."""
        self.ema_gz.add_(projection.to(self.ema_gz.dtype), alpha=1.0 if self.unscaled_nu else 1 - self.alpha_bkw)
