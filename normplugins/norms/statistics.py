"""Tokens and their statistics: rows without padding, means over real tokens, running statistics and their steps.

Nothing here makes the host wait for the device: counts stay tensors, and padding is taken out with ``torch.where``
rather than by multiplication, so that inf or nan in a padded position reaches nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from normplugins.norms.distributed import several_processes, sum_over_processes
from normplugins.norms.torch_compile import of_this_forward


def token_rows(x: Tensor, padding_mask: Tensor | None, dim: int) -> tuple[Tensor, Tensor | None]:
    """Flatten x (T, B, C) or (N, C) to rows (N, C), in float32 at least, and the mask to real (N, 1), True = token.

    ``padding_mask`` is (B, T) for x (T, B, C), (N,) for x (N, C), True where padding; None gives None.
    Raises ValueError when a shape does not fit.
    """
    check_shapes(x, padding_mask, dim)
    rows = x.reshape(-1, dim).to(torch.promote_types(x.dtype, torch.float32))
    if padding_mask is None:
        return rows, None
    padding = padding_mask.bool()
    return rows, ~(padding.t() if padding.dim() == 2 else padding).reshape(-1, 1)


def check_shapes(x: Tensor, padding_mask: Tensor | None, dim: int) -> None:
    """Raise ValueError unless x is (T, B, dim) or (N, dim), and the mask (B, T) or (N,) or None."""
    if x.dim() not in (2, 3) or x.size(-1) != dim:
        raise ValueError(f"a norm of {dim} channels takes (T, B, {dim}) or (N, {dim}), not {tuple(x.shape)}")
    if padding_mask is not None and padding_mask.shape != x.shape[:-1][::-1]:
        raise ValueError(
            f"padding mask {tuple(padding_mask.shape)} does not fit x {tuple(x.shape)}: "
            "(B, T) goes with (T, B, C), (N,) with (N, C)"
        )


def zero_padding(rows: Tensor, real: Tensor | None) -> Tensor:
    """Put zeros into the rows (N, C) that are padding; their gradient is zero as well."""
    return rows if real is None else torch.where(real, rows, 0)


def count_tokens(rows: Tensor, real: Tensor | None) -> Tensor:
    """Count the tokens among rows (N, C), as a scalar tensor of the rows' dtype."""
    return rows.new_full((), rows.size(0)) if real is None else real.sum().to(rows.dtype)


def mean_over(rows: Tensor, count: Tensor) -> Tensor:
    """Mean (C,) of rows (N, C) whose padding is zero, over ``count`` tokens; 0 where there is none."""
    return rows.sum(0) / count.clamp(min=1)


def recomputing() -> bool:
    """Whether this forward runs inside a backward: activation checkpointing is running it for the second time."""
    return not torch.compiler.is_compiling() and bool(torch._C._current_graph_task_id() != -1)


class RunningNorm(nn.Module):
    """What the norms with running statistics share: weight and bias (C,), buffers in float32, and how they are counted.

    A subclass lists its floating-point buffers in ``statistics``. ``.half()`` and ``.bfloat16()`` convert the
    parameters and leave these in float32; ``.double()`` converts both.

    In training a subclass takes a batch's count and moments, passes them through :meth:`over_processes`, normalizes
    with what comes back, and hands it to :meth:`update_running_stats`. Of ``sync`` and ``per_update``, as in
    ``NormConfig``, it need know no more.
    ``not_deferrable`` says why ``sync="deferred"`` is refused, and what to do; "" where it is not.
    """

    statistics: ClassVar[tuple[str, ...]] = ()
    momentum: float
    """weight of the newest batch in the running statistics"""
    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self,
        dim: int,
        eps: float,
        sync: str = "none",
        per_update: bool = False,
        kernels: str = "plain",
        not_deferrable: str = "needs this batch's statistics; use sync=batch",
    ) -> None:
        super().__init__()
        if sync == "deferred" and not_deferrable:
            raise ValueError(f"sync=deferred is too late for {type(self).__name__}, which {not_deferrable}")
        self.dim, self.eps = dim, eps
        self.sync, self.per_update, self.kernels = sync, per_update or sync == "deferred", kernels
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self._pending: dict[str, Tensor] = {}  # by the step that will take it: sums in float64
        self._estimating = False
        self._always_training = False

    def train(self, mode: bool = True) -> "RunningNorm":
        """Set training or evaluation mode; inside :func:`using_batch_statistics` it is training, whatever is asked."""
        super().train(mode or self._always_training)
        return self

    def add_statistic(self, name: str, value: float) -> None:
        """Register the buffer ``name`` (C,), filled with ``value``, in float32 or a wider default dtype."""
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.register_buffer(name, torch.full((self.dim,), value, dtype=dtype))

    def over_processes(self, count: Tensor, *moments: Tensor) -> tuple[Tensor, ...]:
        """Count and means (C,) over all processes' tokens with ``sync="batch"``; otherwise as they came."""
        if not self.synchronised:
            return count, *moments
        return self._moments(sum_over_processes(self._sums(count, *moments)))

    @property
    def synchronised(self) -> bool:
        """Whether this batch's statistics are those of all processes."""
        return self.sync == "batch" and several_processes()

    @property
    def steps_at_once(self) -> bool:
        """Whether a batch enters the running statistics alone and at once: no process and no later batch is awaited."""
        return not (self.synchronised or self.per_update or self._estimating)

    @torch.no_grad()
    def update_running_stats(self, count: Tensor, *moments: Tensor) -> None:
        """Take a running step with a batch's moments, now or at the end of the update."""
        if not recomputing():
            self._count("step", of_this_forward(count), *moments)

    def step(self, count: Tensor, *moments: Tensor) -> None:
        """running <- (1 - momentum) running + momentum batch, if the batch has a token."""
        for running, batch in self._renewed(count, *moments):
            running.lerp_(batch, self.momentum * (count > 0).to(running.dtype))

    def replace(self, count: Tensor, *moments: Tensor) -> None:
        """Put the batch's own statistics in the place of the running ones, if the batch has a token."""
        for running, batch in self._renewed(count, *moments):
            running.copy_(torch.where(count > 0, batch, running))

    def batch_statistics(self, count: Tensor, *moments: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """What ``statistics``, or the first of them, take from a batch with these moments."""
        return moments

    def _renewed(self, count: Tensor, *moments: Tensor) -> list[tuple[Tensor, Tensor]]:
        buffers = [self.get_buffer(name) for name in self.statistics]
        batches = self.batch_statistics(count, *moments)
        return [(running, batch.to(running.dtype)) for running, batch in zip(buffers, batches, strict=False)]

    def _count(self, step: str, count: Tensor, *moments: Tensor) -> None:
        """Call the method ``step`` now, or at the end of the update with all its batches' moments."""
        if self.per_update or self._estimating:
            sums = self._sums(count.double(), *(moment.double() for moment in moments))
            if step in self._pending:
                self._pending[step].add_(sums)  # in place: a compiled backward changes tensors, no dict
            else:
                self._pending[step] = sums
        else:
            getattr(self, step)(count, *moments)

    def _sums(self, count: Tensor, *moments: Tensor) -> Tensor:
        """Flatten to one vector that adds up over batches and processes: the count, then sums over tokens."""
        return torch.cat([count.view(1), *(count * moment for moment in moments)])

    def _moments(self, sums: Tensor) -> tuple[Tensor, ...]:
        """Undo ``_sums``."""
        count = sums[0]
        return count, *(sums[1:] / count.clamp(min=1)).view(-1, self.dim)

    def _take_pending(self) -> dict[str, Tensor]:
        taken, self._pending = self._pending, {}
        return taken

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RunningNorm":
        before = {name: self.get_buffer(name) for name in self.statistics}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self.get_buffer(name)
            if torch.finfo(new.dtype).bits < 32:  # from the old values: those in ``new`` are rounded
                setattr(self, name, old.to(device=new.device, dtype=torch.float32))
        self._pending = {step: sums.to(self.bias.device) for step, sums in self._pending.items()}
        return self

    def affine(self, rows: Tensor, scale: Tensor) -> Tensor:
        """weight * (rows * scale) + bias, for rows (N, C) and scale (C,), in the rows' dtype."""
        return torch.addcmul(self.bias.to(rows.dtype), rows, (self.weight * scale).to(rows.dtype))

    def extra_repr(self) -> str:
        """Show every plain setting: ``512, eps=1e-05, ...``."""
        hidden = ("dim", "training")
        plain = {key: value for key, value in vars(self).items() if key[0] != "_" and key not in hidden}
        return ", ".join([str(self.dim), *(f"{key}={value}" for key, value in plain.items())])


def _running_norms(model: nn.Module) -> list[RunningNorm]:
    return [module for module in model.modules() if isinstance(module, RunningNorm)]


def _pooled(norms: list[RunningNorm]) -> list[tuple[RunningNorm, str, tuple[Tensor, ...]]]:
    """Take what is pending: of which norm, for which step, its moments. One all-reduce if a norm is deferred."""
    taken = [(norm, step, sums) for norm in norms for step, sums in norm._take_pending().items()]
    deferred = [sums for norm, _, sums in taken if norm.sync == "deferred"]
    if deferred and several_processes():
        total = iter(torch.split(sum_over_processes(torch.cat(deferred)), [len(sums) for sums in deferred]))
        taken = [(norm, step, next(total) if norm.sync == "deferred" else sums) for norm, step, sums in taken]
    return [(norm, step, norm._moments(sums)) for norm, step, sums in taken]


@torch.no_grad()
def end_update(model: nn.Module) -> None:
    """Let what an update's batches left pending (``per_update``, ``sync="deferred"``) enter the running statistics.

    Every process of the default group must call it, after the last backward of the update. One all-reduce of one flat
    tensor serves all deferred norms of the model. Nothing happens when nothing is pending.
    """
    for norm, step, moments in _pooled(_running_norms(model)):
        getattr(norm, step)(*moments)


@contextmanager
def reestimate(model: nn.Module) -> Iterator[None]:
    """Inside, forwards in training mode gather statistics and change none; on leaving they are the running ones.

    The running mean, variance and psi^2 become those of all the tokens seen inside, pooled (with ``sync``: by all
    processes); of a norm that saw no token they stay, and so do ``ema_gz`` and ``num_updates``. When an error leaves
    the context, everything stays. The caller sets the training mode, and turns dropout and gradients off if it wants.
    """
    with _gathering(model) as norms:
        yield
        with torch.no_grad():
            for norm, _, moments in _pooled(norms):
                norm.replace(*moments)


@contextmanager
def using_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, the norms with running statistics forward as in training, whatever mode is set, and change none of them.

    The rest of the model follows its mode, so that at evaluation dropout is off. Afterwards every norm has the mode
    that it had before. Gradients are to be off.
    """
    with _gathering(model) as norms:
        modes = [norm.training for norm in norms]
        for norm in norms:
            norm._always_training = True
            norm.train()
        try:
            yield
        finally:
            for norm, mode in zip(norms, modes, strict=True):
                norm._always_training = False
                norm.train(mode)


@contextmanager
def _gathering(model: nn.Module) -> Iterator[list[RunningNorm]]:
    """Inside, the norms' batches enter no running statistic but what is pending, which is dropped on leaving."""
    norms = _running_norms(model)
    before = [norm._take_pending() for norm in norms]
    for norm in norms:
        norm._estimating = True
    try:
        yield norms
    finally:
        for norm, pending in zip(norms, before, strict=True):
            norm._pending, norm._estimating = pending, False


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Every running statistic of a model by its full name, in module order: the floating-point buffers, no copies."""
    return {
        f"{path}.{name}" if path else name: module.get_buffer(name)
        for path, module in model.named_modules()
        if isinstance(module, RunningNorm)
        for name in module.statistics
    }
