"""The verdicts on a claim, and the seeds that a standard deviation needs."""

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
NOT_RUN = "not run"
SPREAD_SEEDS = 3
"""A standard deviation of fewer seeds is nearly unknown, so that nothing is said by it."""
