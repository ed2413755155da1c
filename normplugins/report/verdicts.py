"""The verdicts on a claim."""

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
NOT_RUN, UNTESTABLE = "not run", "not testable here"
