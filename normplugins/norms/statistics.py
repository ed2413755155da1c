"""Running statistics: buffers that follow the moments of the batches, and their updates."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normplugins.norms.base import Norm
from normplugins.norms.distributed import process_count, sum_over_processes
from normplugins.norms.settings import RunningSettings
from normplugins.norms.torch_compile import opaque_copy


def recomputing() -> bool:
    """Whether activation checkpointing is running this forward for the second time, inside a backward."""
    return not torch.compiler.is_compiling() and bool(torch._C._current_graph_task_id() != -1)


class RunningNorm(Norm):
    """Base class of the norms with running statistics.

    It keeps buffers in float32 and implements the updates of running statistics. A subclass lists its floating-point
    buffers in ``statistics``. ``.half()`` and ``.bfloat16()`` convert the parameters and leave these buffers in
    float32; ``.double()`` converts both.

    In training a subclass computes a batch's token count and moments, passes them through :meth:`synchronize`,
    normalizes with the result, and passes the result to :meth:`update_running_stats`. This is enough to support
    ``sync`` and ``per_update``.
    """

    statistics: ClassVar[tuple[str, ...]] = ()
    updates_in_backward: ClassVar[bool] = False
    """whether the backward pass updates statistics too, by ``step_backward``, which takes a count and a mean (C,)"""
    momentum: float
    """weight of the batch in the running statistics"""
    sync: str

    def __init__(self, dim: int, settings: RunningSettings) -> None:
        super().__init__(dim, settings)
        if settings.sync == "deferred" and (reason := self.not_deferrable):
            raise ValueError(f"sync=deferred does not work with {type(self).__name__}, which {reason}")
        self.per_update = settings.per_update or settings.sync == "deferred"
        self._pending = self._nothing_pending()  # sums in float64, by the name of the method that takes them
        self._estimating = False
        self._always_training = False

    @property
    def not_deferrable(self) -> str:
        """Why ``sync="deferred"`` is refused, as the end of a sentence; "" if the norm supports it."""
        return "needs this batch's statistics; use sync=batch"

    def train(self, mode: bool = True) -> "RunningNorm":
        """Set the mode; inside :func:`using_batch_statistics` it is always training mode."""
        super().train(mode or self._always_training)
        return self

    def add_statistic(self, name: str, value: float) -> None:
        """Register the buffer ``name`` (C,), filled with ``value``, in float32 or a wider default dtype."""
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.register_buffer(name, torch.full((self.dim,), value, dtype=dtype))

    def synchronize(self, count: Tensor, *moments: Tensor) -> tuple[Tensor, ...]:
        """With ``sync="batch"``, pool count and means (C,) over all processes; otherwise return them unchanged."""
        if not self.synchronizes:
            return count, *moments
        pooled = self._moments(sum_over_processes(self._sums_in_double(count, *moments)))
        return tuple(each.to(moments[-1].dtype) for each in pooled)

    @property
    def synchronizes(self) -> bool:
        """Whether this batch's statistics are computed over all processes."""
        return self.sync == "batch" and process_count() > 1

    @property
    def updates_immediately(self) -> bool:
        """Whether this process's batch enters the running statistics immediately and alone."""
        return not (self.synchronizes or self.per_update or self._estimating)

    @torch.no_grad()
    def update_running_stats(self, count: Tensor, *moments: Tensor) -> None:
        """Update the running statistics with a batch's moments, now or at the end of the update."""
        if not recomputing():
            self._apply_step("step", opaque_copy(count), *moments)

    def update_after_backward(self, count: Tensor, mean: Tensor) -> None:
        """Update the backward's statistics with a batch's mean (C,), now or at the end of the update.

        Channels whose mean is not finite, for example after an overflow of the loss scale, count as 0. If no channel is
        finite, the batch counts as a batch without tokens.
        """
        if not self._estimating:
            finite = mean.isfinite()
            self._apply_step("step_backward", torch.where(finite.any(), count, 0), torch.where(finite, mean, 0))

    def step(self, count: Tensor, *moments: Tensor) -> None:
        """Update the running statistics with a batch's moments, if the batch has a token."""
        self._move(self.momentum, count, *moments)

    def batch_statistics(self, count: Tensor, *moments: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Return the batch's values for ``statistics``, or for the first of them, from its moments."""
        return moments

    def _move(self, momentum: float, count: Tensor, *moments: Tensor) -> None:
        """Set running = (1 - momentum) running + momentum batch, if the batch has a token."""
        for name, batch in zip(self.statistics, self.batch_statistics(count, *moments), strict=False):
            running = self.get_buffer(name)
            running.lerp_(batch.to(running.dtype), momentum * (count > 0).to(running.dtype))

    def _apply_step(self, step: str, count: Tensor, *moments: Tensor) -> None:
        """Call the method named ``step`` now, or at the end of the update with the pooled moments of its batches."""
        if self.per_update or self._estimating:
            sums, before = self._sums_in_double(count, *moments), self._pending.get(step)
            if before is not None and torch.compiler.is_compiling():
                before.add_(sums)  # in place: a compiled backward cannot change a dict
            else:  # not in place, which is an error if ``before`` comes from torch.inference_mode()
                self._pending[step] = sums if before is None else before + sums
        else:
            getattr(self, step)(count, *moments)

    def _sums_in_double(self, count: Tensor, *moments: Tensor) -> Tensor:
        """Return the vector of :meth:`_sums` in float64, where a variance can be computed from a sum of squares."""
        return self._sums(count.double(), *(moment.double() for moment in moments))

    def _sums(self, count: Tensor, *moments: Tensor) -> Tensor:
        """Return one vector that can be summed over batches and processes: the count, then sums over tokens."""
        return torch.cat([count.view(1), *(count * moment for moment in moments)])

    def _moments(self, sums: Tensor) -> tuple[Tensor, ...]:
        """Return count and moments from the vector of :meth:`_sums`."""
        count = sums[0]
        return count, *(sums[1:] / count.clamp(min=1)).view(-1, self.dim)

    def _take_pending(self) -> dict[str, Tensor]:
        taken, self._pending = self._pending, self._nothing_pending()
        return taken

    def _nothing_pending(self) -> dict[str, Tensor]:
        if not (self.per_update and self.updates_in_backward):
            return {}
        # This entry must exist before the backward, because a compiled backward can change tensors but not a dict.
        return {"step_backward": self.bias.new_zeros(1 + self.dim, dtype=torch.float64)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RunningNorm":
        before = {name: self.get_buffer(name) for name in self.statistics}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self.get_buffer(name)
            if torch.finfo(new.dtype).bits < 32:  # from the old values, because ``new`` is rounded
                setattr(self, name, old.to(device=new.device, dtype=torch.float32))
        self._move_pending()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        for name in self.statistics:  # with assign=True, buffers take the dtype and the device of the state
            if torch.finfo((loaded := self.get_buffer(name)).dtype).bits < 32:
                setattr(self, name, loaded.float())
        self._move_pending()

    def _move_pending(self) -> None:
        """Move the pending sums to the device of the parameters."""
        self._pending = {
            step: torch.zeros_like(sums, device=self.bias.device) if sums.is_meta else sums.to(self.bias.device)
            for step, sums in self._pending.items()
        }

    def reset_parameters(self) -> None:
        """Set parameters and running statistics to their initial values, and drop pending updates."""
        super().reset_parameters()
        self._take_pending()

    def affine(self, rows: Tensor, scale: Tensor) -> Tensor:
        """Return weight * (rows * scale) + bias, for rows (N, C) and scale (C,), in the rows' dtype."""
        return torch.addcmul(self.bias.to(rows.dtype), rows, (self.weight * scale).to(rows.dtype))


def _running_norms(model: nn.Module) -> list[RunningNorm]:
    return [module for module in model.modules() if isinstance(module, RunningNorm)]


def _take_pooled(norms: list[RunningNorm]) -> list[tuple[RunningNorm, str, tuple[Tensor, ...]]]:
    """Take all pending sums and return (norm, step, moments) of each; one all-reduce pools all deferred sums."""
    taken = [(norm, step, sums) for norm in norms for step, sums in norm._take_pending().items()]
    deferred = [sums for norm, _, sums in taken if norm.sync == "deferred"]
    if deferred and process_count() > 1:
        total = iter(torch.split(sum_over_processes(torch.cat(deferred)), [len(sums) for sums in deferred]))
        taken = [(norm, step, next(total) if norm.sync == "deferred" else sums) for norm, step, sums in taken]
    return [(norm, step, norm._moments(sums)) for norm, step, sums in taken]


@torch.no_grad()
def end_update(model: nn.Module) -> None:
    """Apply the pending updates of running statistics at the end of an update (``per_update``, ``sync="deferred"``).

    Every process of the default group must call it after the last backward of the update. One all-reduce of one flat
    tensor serves all deferred norms of the model. Without pending statistics nothing happens.
    """
    for norm, step, moments in _take_pooled(_running_norms(model)):
        getattr(norm, step)(*moments)


@contextmanager
def reestimate(model: nn.Module) -> Iterator[None]:
    """Re-estimate the running statistics from the batches that run through ``model`` in this context (precise BN).

    Forwards in training mode collect statistics without changing any. On exit the running mean, variance and psi^2
    become the pooled statistics of all collected tokens (with ``sync``: over all processes). A norm that saw no token
    keeps its statistics; ``ema_gz`` and ``num_updates`` never change. If the context ends with an error, nothing
    changes. The caller sets training mode, and disables dropout and gradients if needed.

    Raises:
        ValueError: the model has norms with running statistics, and none was called in training mode.
    """
    with _collecting(model) as norms:
        yield
        with torch.no_grad():
            collected = [(norm, moments) for norm, step, moments in _take_pooled(norms) if step == "step"]
            if norms and not collected:
                raise ValueError(
                    "no batch in training mode: call model.train() and run the model inside reestimate(model)"
                )
            for norm, moments in collected:
                norm._move(1.0, *moments)


@contextmanager
def using_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Run the norms with running statistics in training mode inside this context, without changing any statistic.

    The rest of the model keeps its mode, so dropout is off in evaluation mode. On exit every norm returns to its
    previous mode. Gradients must be disabled.
    """
    with _collecting(model) as norms:
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
def _collecting(model: nn.Module) -> Iterator[list[RunningNorm]]:
    """Collect the statistics of batches in ``_pending`` and discard them on exit."""
    norms = _running_norms(model)
    before = [(norm._take_pending(), norm._estimating) for norm in norms]
    for norm in norms:
        norm._estimating = True
    try:
        yield norms
    finally:
        for norm, (pending, estimating) in zip(norms, before, strict=True):
            norm._pending, norm._estimating = pending, estimating


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return every running statistic of a model by its full name, in module order; the buffers are not copied."""
    return {
        f"{path}.{name}" if path else name: module.get_buffer(name)
        for path, module in model.named_modules()
        if isinstance(module, RunningNorm)
        for name in module.statistics
    }
