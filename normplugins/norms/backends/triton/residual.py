"""residual + dropout(update) inside a norm's own passes, forward and backward.

s = residual + dropout(update) comes from the first pass of the norm's forward, which writes it; in the last pass of its
backward the gradient that reaches s through the norm is added to the one that arrives otherwise, and goes on as
dL/dresidual and, through the dropout, dL/dupdate. Padding is added up like tokens.

Dropout's mask is nowhere stored. Both directions draw it by Philox (Salmon et al., 2011), ten rounds, from a seed and
from where in x a tile stands; how many programs there are does not matter. PyTorch's generator of the device draws the
seed, a tensor that the host never reads: masks are seeded, saved in checkpoints and drawn again under activation
checkpointing as PyTorch's are. As on a CPU (``models/dropout.py``) an element is dropped with probability p rounded to
1/65536, and what is kept is scaled by the inverse of exactly that.

HBM traffic of a training step of N tokens of C channels of e bytes, in N C bytes. Apart, dropout takes 2 e + 1 in each
direction, its mask being bytes, and each of two sums 3 e: that of the residual, and that of the gradients at s.

                             forward: apart, fused    backward: apart, fused    both, bfloat16    both, float32
    pn, pn_alg2, rms              7 e + 1    4 e             8 e + 1    5 e         32    18          62    36
    pn in its warmup              8 e + 1    5 e             8 e + 1    5 e         34    20          66    40
    pnv, bn                       8 e + 1    5 e            10 e + 1    7 e         38    24          74    48

Post-norm no other gradient arrives at s: in the backward 3 e less apart, e less fused. So it should pay for every norm,
the more the fewer passes the norm has, up to 1.8 times in bfloat16; nothing of this has been measured on a GPU.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from normplugins.norms.backends.triton.tiles import FORWARD_THREADS, SUM_THREADS
from normplugins.norms.deferred_residual import LEVELS, DeferredResidual


@dataclass(frozen=True)
class Drawn:
    """Which elements are dropped: by a seed (scalar, int64), ``dropped`` of ``LEVELS``; without a seed none."""

    seed: Tensor | None = None
    dropped: int = 0

    @classmethod
    def anew(cls, p: float, x: Tensor) -> "Drawn":
        """With probability p, by the next number of the generator of x's device."""
        dropped = round(p * LEVELS)
        return cls(torch.empty((), dtype=torch.int64, device=x.device).random_(), dropped) if dropped else cls()

    def arguments(self) -> dict[str, object]:
        """What a kernel takes to draw them."""
        return {"seed": self.seed, "DROPPED": self.dropped, "SCALE": LEVELS / max(LEVELS - self.dropped, 1)}


@dataclass(frozen=True)
class Source:
    """What a pass of a forward reads: x or, where there is an update, the residual x, to write the sum to ``total``."""

    x: Tensor
    update: Tensor | None = None
    total: Tensor | None = None
    drawn: Drawn = Drawn()

    @classmethod
    def of(cls, x: Tensor | DeferredResidual) -> "Source":
        """Of x, or of a sum that may have been added up."""
        if not isinstance(x, DeferredResidual):
            return cls(x.contiguous())
        residual = x.residual.contiguous()
        if x.update is None:
            return cls(residual)
        return cls(residual, x.update.contiguous(), torch.empty_like(residual), Drawn.anew(x.p, residual))

    @property
    def value(self) -> Tensor:
        """What is normalized, which the first pass has written where it is a sum."""
        return self.x if self.total is None else self.total

    @property
    def threads(self) -> int:
        """Of a forward pass that reads it, on a multiprocessor."""
        return FORWARD_THREADS if self.update is None else SUM_THREADS

    def read(self) -> "Source":
        """What the passes after the first read."""
        return Source(self.value, drawn=self.drawn)

    def arguments(self) -> dict[str, object]:
        """What the forward kernels take beside x."""
        drawn = Drawn() if self.update is None else self.drawn
        return {"update": self.update, "total": self.total, **drawn.arguments()}


@dataclass(frozen=True)
class Gradients:
    """What a pass of a backward writes: dx, to which ``arriving`` is added if there is one, and dupdate; or nothing.

    Where nothing was dropped dL/dupdate is dL/dresidual, which is dx.
    """

    dx: Tensor | None = None
    arriving: Tensor | None = None
    dupdate: Tensor | None = None
    drawn: Drawn = Drawn()

    @classmethod
    def of(cls, x: Tensor, arriving: Tensor | None, drawn: Drawn) -> "Gradients":
        """Of x, to be written: x is what was normalized."""
        dupdate = None if drawn.seed is None else torch.empty_like(x)
        return cls(torch.empty_like(x), None if arriving is None else arriving.contiguous(), dupdate, drawn)

    def of_parts(self, update: bool) -> tuple[Tensor | None, Tensor | None]:
        """Of x or the residual, and if wanted of the update."""
        dupdate = self.dx if self.dupdate is None else self.dupdate
        return self.dx, dupdate if update else None

    def arguments(self) -> dict[str, object]:
        """What the backward kernel takes beside dx."""
        return {"arriving": self.arriving, "dupdate": self.dupdate, **self.drawn.arguments()}


def normalized(x: Tensor | DeferredResidual, y: Tensor, value: Tensor | None) -> Tensor:
    """Return y, the norm of x, having told a sum its value."""
    if isinstance(x, DeferredResidual) and value is not None:
        x.set_value(value)
    return y


@triton.jit
def draw_kept(seed, start, DROPPED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Which elements (ROWS, COLUMNS) of the tile from token ``start`` on are kept.

    A call of Philox gives 128 bits, 16 for each of eight elements. A call an element, 17 wide multiplications, would by
    their count take as long as moving the 8 bytes of a bfloat16 forward.
    """
    CALLS: tl.constexpr = ROWS * COLUMNS // 8
    tile = tl.num_programs(0).to(tl.int64) * (start // ROWS) + tl.program_id(0)
    a, b, c, d = tl.randint4x(tl.load(seed), tile * CALLS + tl.arange(0, CALLS))
    words = tl.join(tl.join(a, b), tl.join(c, d)).to(tl.uint32, bitcast=True)
    kept = tl.join((words & 0xFFFF) >= DROPPED, (words >> 16) >= DROPPED)
    return tl.reshape(kept, (ROWS, COLUMNS))


@triton.jit
def load_sum(
    residual,
    update,
    total,
    seed,
    at,
    there,
    start,
    DROPPED: tl.constexpr,
    SCALE: tl.constexpr,
    T: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A tile of residual + dropout(update), written to ``total``; what is returned is what a reader will find there."""
    added = tl.load(update + at, mask=there, other=0.0).to(T)
    if seed is not None:
        added = tl.where(draw_kept(seed, start, DROPPED, ROWS, COLUMNS), added * SCALE, 0.0)
    value = (tl.load(residual + at, mask=there, other=0.0).to(T) + added).to(total.dtype.element_ty)
    tl.store(total + at, value, mask=there)
    return value.to(T)
