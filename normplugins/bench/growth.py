"""Whether a cost grows in a straight line with the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Growth:
    """How times follow sizes.

    ``exponent``: time ~ size^exponent. ``off_line``: the largest distance, in parts of the time, from the straight line
    (a fixed cost and one a unit) that fits best.
    """

    exponent: float
    off_line: float

    def __str__(self) -> str:
        return f"time ~ size^{self.exponent:.2f}, within {100 * self.off_line:.0f} % of a straight line"


def growth(sizes: Sequence[float], times: Sequence[float]) -> Growth:
    """The growth of ``times`` over ``sizes``, both above 0.

    Relative errors are what both fits keep small, so that the smallest size counts as much as the largest.

    Raises:
        ValueError: fewer than two sizes.
    """
    x, y = np.asarray(sizes, dtype=float), np.asarray(times, dtype=float)
    if len(set(sizes)) < 2:
        raise ValueError(f"growth needs two sizes at least, not {list(sizes)}")
    exponent = float(np.polyfit(np.log(x), np.log(y), 1)[0])
    line = np.polyval(np.polyfit(x, y, 1, w=1 / y), x)
    return Growth(exponent, float(np.max(np.abs(line / y - 1))))
