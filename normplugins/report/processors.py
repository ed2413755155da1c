"""What the processors of the runs could change: pairs of runs on different ones, and contrasts if one scores less.

Processors round sums in another order, so that the same seed gives another model (amendment 18 of the protocol).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from normplugins.report.contrasts import CHECKPOINTS, Finding, with_verdicts
from normplugins.report.records import WHOLE_TEST_SET, distinct, read_record

REPEATS = "repeats"
"""The folder of the runs that were made a second time, on another processor."""


def mixed_pairs(findings: Sequence[Finding], ended: pd.DataFrame, column: str = "hardware") -> list[int]:
    """Return in how many pairs of each finding the two runs did not use one and the same processor throughout.

    ``ended`` has the rows of the runs; a run that was resumed on another processor has both. ``column`` is
    ``hardware``, or ``threads`` for the numbers of threads.
    """
    used = ended.drop_duplicates(["variant", "seed"]).set_index(["variant", "seed"])[column]
    return [
        sum("; " in distinct(used[[(each.contrast.system, seed), (each.contrast.baseline, seed)]])
            for seed in (each.difference.seeds if each.difference else ()))
        for each in findings
    ]  # fmt: skip


def describe_mixed(findings: Sequence[Finding], ended: pd.DataFrame) -> str:
    """Return in how many pairs the two runs did not use one processor, or one number of threads, and in which."""
    mixed, threads = mixed_pairs(findings, ended), sum(mixed_pairs(findings, ended, "threads"))
    each = [
        f"{count} of {one.seeds} in {one.contrast.name}" for count, one in zip(mixed, findings, strict=True) if count
    ]
    where = f" They are {', '.join(each)}." if each else ""
    return (
        f"In {sum(mixed)} of {sum(one.seeds for one in findings)} pairs the two runs did not use one and the same "
        f"processor throughout, and in {threads} not one and the same number of threads. Both change the rounding, so "
        f"that the same seed gives another model (amendments 11, 18 and 22 of the protocol).{where}"
    )


def sensitivity(results: Path, findings: Sequence[Finding], scores: pd.DataFrame) -> str:
    """Return, in sentences, the contrasts that another processor's lower scores would change (amendment 22).

    The size of the effect is the mean difference of the repeated runs; "" without such runs, and if they do not all
    compare the same two processors. ``scores`` has the rows of the planned cells with the BLEU on the whole test set.
    """
    runs = scores[scores["checkpoint"] == CHECKPOINTS[0]].set_index(["variant", "seed"])
    repeated = pd.DataFrame([
        row for path in sorted((results / REPEATS).glob("*/*/seed*.json")) for row in read_record(path)
        if (row["checkpoint"], row["test_set"], row["metric"]) == (CHECKPOINTS[0], WHOLE_TEST_SET, "bleu")
    ])  # fmt: skip
    if repeated.empty:
        return ""
    published = runs.loc[[*zip(repeated["variant"], repeated["seed"], strict=True)]]
    processors = [*{*zip(published["hardware"], repeated["hardware"], strict=True)}]
    if len(processors) != 1:
        return ""
    usual, other = (name.removeprefix("CPU (").removesuffix(")") for name in processors[0])
    loss = (published["value"].to_numpy() - repeated["value"].to_numpy()).mean()
    on_other = (runs["hardware"] == processors[0][1]).astype(float) * loss
    changed = []
    for each in findings:
        if each.difference and each.seeds > 1:
            sides = ([on_other[cell, seed] for seed in each.difference.seeds]
                     for cell in (each.contrast.system, each.contrast.baseline))  # fmt: skip
            shifts = [ours - theirs for ours, theirs in zip(*sides, strict=True)]
            each = replace(each, difference=each.difference.shifted(shifts))
        changed.append(each)
    others = []
    for before, after in zip(findings, with_verdicts(changed), strict=True):
        if after.verdict != before.verdict and after.difference:
            low, high = after.difference.interval
            numbers = f"{after.difference.mean:+.2f} BLEU [{low:+.2f}, {high:+.2f}]"
            others.append(f"{after.contrast.name} would be {after.verdict} in place of {before.verdict}: {numbers}")
    return (
        f"**Do the processors of the runs matter?** The {len(repeated)} runs that were made a second time, on {other}, "
        f"score {loss:.2f} BLEU less than on {usual}, on average ([repeats]({REPEATS}/README.md)). They are too few to "
        f"tell an effect of the processor from chance. With {loss:.2f} BLEU more for each run on {other}, "
        f"{'; '.join(others) or 'no verdict would change'}."
        f"{' The other verdicts would stay.' if others else ''}"
    )
