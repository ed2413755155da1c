"""residual + dropout(update) inside a norm's own passes, forward and backward.

The first pass of the norm's forward computes and writes s = residual + dropout(update). The last pass of its backward
adds the gradient of s through the norm to its other gradient, and writes the sum as dL/dresidual and, through the
dropout, as dL/dupdate. Padding is summed like tokens.

The dropout mask is not stored. Both directions draw it with ten rounds of Philox (Salmon et al., 2011) from a seed and
a tile's position in x, independent of the number of programs. PyTorch's generator for the device draws the seed, a
tensor that the host never reads, so seeding, checkpoints and activation checkpointing work as they do for PyTorch's own
masks. As on a CPU (``models/dropout.py``), an element is dropped with probability p rounded to a multiple of 1/65536,
and kept elements are divided by the exact probability of being kept.

For elements of e bytes, the separate operations move 5 N C e bytes and N C bytes of mask in each direction, and the
fused ones 2 N C e, or N C e in the backward of post-norm; docs/speed.md has the calculation. None of this has been
measured on a GPU.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from normplugins.norms.backends.triton.tiles import FORWARD_THREADS, SUM_THREADS
from normplugins.norms.deferred_residual import LEVELS, DeferredResidual


@dataclass(frozen=True)
class Source:
    """The input of a forward pass: x or, if there is an ``update``, the residual x; the sum is written to ``total``.

    The update is dropped with probability ``dropped`` / ``LEVELS``; ``seed`` (scalar, int64) determines the mask, and
    None means no dropout.
    """

    x: Tensor
    update: Tensor | None = None
    total: Tensor | None = None
    seed: Tensor | None = None
    dropped: int = 0

    @classmethod
    def of(cls, x: Tensor | DeferredResidual) -> "Source":
        """Return the source for x or for a deferred sum, which may be computed already; draw the seed of its mask."""
        if not isinstance(x, DeferredResidual):
            return cls(x.detach().contiguous())
        residual, dropped = x.residual.detach().contiguous(), round(x.p * LEVELS)
        if x.update is None:
            return cls(residual)
        seed = torch.empty((), dtype=torch.int64, device=residual.device).random_() if dropped else None
        return cls(residual, x.update.detach().contiguous(), torch.empty_like(residual), seed, dropped)

    @property
    def value(self) -> Tensor:
        """The tensor that is normalized; the first pass writes it if it is a sum."""
        return self.x if self.total is None else self.total

    @property
    def threads(self) -> int:
        """Threads per multiprocessor of a forward pass that reads it."""
        return FORWARD_THREADS if self.update is None else SUM_THREADS

    def read(self) -> "Source":
        """Return the source for the passes after the first."""
        return Source(self.value)

    def arguments(self) -> dict[str, object]:
        """Return the arguments of a forward kernel that belong to the input."""
        return {"x": self.x, "update": self.update, "total": self.total, "seed": self.seed, "DROPPED": self.dropped}


@triton.jit
def draw_kept(seed, start, DROPPED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return which elements (ROWS, COLUMNS) of the tile from token ``start`` on are kept.

    A call of Philox gives 128 bits, 16 for each of eight elements. One call per element, of 17 wide multiplications,
    would take as long as moving the element's 8 bytes in a bfloat16 forward.
    """
    CALLS: tl.constexpr = ROWS * COLUMNS // 8
    tile = tl.num_programs(0).to(tl.int64) * (start // ROWS) + tl.program_id(0)
    a, b, c, d = tl.randint4x(tl.load(seed), tile * CALLS + tl.arange(0, CALLS))
    words = tl.join(tl.join(a, b), tl.join(c, d)).to(tl.uint32, bitcast=True)
    kept = tl.join((words & 0xFFFF) >= DROPPED, (words >> 16) >= DROPPED)
    return tl.reshape(kept, (ROWS, COLUMNS))


@triton.jit
def dropout(x, seed, start, DROPPED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return a tile x (ROWS, COLUMNS) from token ``start`` on after dropout, or x itself without a seed."""
    if seed is None:
        return x
    else:  # noqa: RET505  (the compiler drops one branch)
        SCALE: tl.constexpr = 65536 / (65536 - DROPPED) if DROPPED < 65536 else 1.0
        return tl.where(draw_kept(seed, start, DROPPED, ROWS, COLUMNS), x * SCALE, 0.0)


@triton.jit
def load_sum(
    residual, update, total, seed, at, there, start,
    DROPPED: tl.constexpr, T: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write a tile of residual + dropout(update) to ``total``, and return it as it is stored."""
    added = dropout(tl.load(update + at, mask=there, other=0.0).to(T), seed, start, DROPPED, ROWS, COLUMNS)
    value = (tl.load(residual + at, mask=there, other=0.0).to(T) + added).to(total.dtype.element_ty)
    tl.store(total + at, value, mask=there)
    return value.to(T)
