"""Student's t distribution for a whole number of degrees of freedom, and the intervals of means that follow from it."""

import math
from collections.abc import Sequence

import numpy as np


def student_cdf(t: float, degrees: int) -> float:
    """Return the distribution function of Student's t for a whole number of degrees of freedom.

    This is the finite series in Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(abs(t) / math.sqrt(degrees))
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for order in range(2 + odd, degrees + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (order - 1) / order
    inside = math.sin(angle) * total
    if odd:
        inside = 2 / math.pi * (angle + inside)
    return 0.5 + math.copysign(inside / 2, t)


def student_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t for a probability of at least 1/2, by bisection."""
    low, high = 0.0, 1.0
    while student_cdf(high, degrees) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean of two or more independent values."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = student_quantile(0.975, len(values) - 1) * error
    return mean - reach, mean + reach
