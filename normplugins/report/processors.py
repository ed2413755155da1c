"""What the processors of the runs could change: how many pairs mix two, and the contrasts corrected for one of them.

Processors round sums in another order, so that the same seed gives another model (amendment 18 of the protocol).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from normplugins.evaluation.student import interval_of_mean
from normplugins.report.contrasts import CHECKPOINTS, EXPERIMENT, Finding, format_interval, with_verdicts
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
    where = f" The pairs of different processors are: {', '.join(each)}." if each else ""
    return (
        f"In {sum(mixed)} of {sum(one.seeds for one in findings)} pairs the two runs did not use one and the same "
        f"processor throughout, and in {threads} not one and the same number of threads. Both change the rounding, so "
        f"that the same seed gives another model (amendments 11, 18 and 22 of the protocol).{where}"
    )


@dataclass(frozen=True)
class Repeats:
    """The runs of Multi30k that were made a second time, all on one other processor.

    ``differences`` has the score of each second run minus that of the first. The names are those of the report, such as
    ``CPU (AMD EPYC)``, and ``threads`` has the numbers of threads of the first and of the second runs.
    """

    differences: list[float]
    first: str
    second: str
    threads: tuple[str, str]

    @property
    def mean(self) -> float:
        """The mean difference."""
        return sum(self.differences) / len(self.differences)


def read_repeats(results: Path, scores: pd.DataFrame) -> Repeats | None:
    """Return the repeated runs; None without any, or if they do not all compare the same two processors.

    ``scores`` has the rows of the planned cells with the BLEU on the whole test set.
    """
    runs = _averaged(scores)
    again = pd.DataFrame([
        row for path in sorted((results / REPEATS / EXPERIMENT).glob("*/seed*.json")) for row in read_record(path)
        if (row["checkpoint"], row["test_set"], row["metric"]) == (CHECKPOINTS[0], WHOLE_TEST_SET, "bleu")
        and (row["variant"], row["seed"]) in runs.index
    ])  # fmt: skip
    if again.empty:
        return None
    first = runs.loc[[*zip(again["variant"], again["seed"], strict=True)]]
    processors = distinct(first["hardware"]), distinct(again["hardware"])
    if processors[0] == processors[1] or any("; " in name for name in processors):
        return None
    differences = again["value"].to_numpy() - first["value"].to_numpy()
    return Repeats(differences.tolist(), *processors, (distinct(first["threads"]), distinct(again["threads"])))


def sensitive_contrasts(results: Path, findings: Sequence[Finding], scores: pd.DataFrame) -> set[str]:
    """Return the names of the contrasts whose verdict depends on the processors (amendment 22)."""
    repeats = read_repeats(results, scores)
    return {before.contrast.name for before, _ in _changed(repeats, findings, scores)} if repeats else set()


def _changed(repeats: Repeats, findings: Sequence[Finding], scores: pd.DataFrame) -> list[tuple[Finding, Finding]]:
    """Return the findings whose verdict changes if the other processor is corrected for, as they are and corrected.

    The correction adds minus the mean difference of the repeated runs to each run made only on the other processor.
    """
    added = (_averaged(scores)["hardware"] == repeats.second).astype(float) * -repeats.mean
    corrected = []
    for each in findings:
        if each.difference and each.seeds > 1:
            ours, theirs = (
                added[[(cell, seed) for seed in each.difference.seeds]].to_numpy()
                for cell in (each.contrast.system, each.contrast.baseline)
            )
            each = replace(each, difference=each.difference.shifted(list(ours - theirs)))
        corrected.append(each)
    pairs = zip(findings, with_verdicts(corrected), strict=True)
    return [(before, after) for before, after in pairs if after.verdict != before.verdict]


def sensitivity(results: Path, findings: Sequence[Finding], scores: pd.DataFrame) -> str:
    """Return, in sentences, the verdicts that depend on the processors (amendment 22); "" without repeated runs."""
    repeats = read_repeats(results, scores)
    if repeats is None:
        return ""
    first, second = (name.removeprefix("CPU (").removesuffix(")") for name in (repeats.first, repeats.second))
    count, interval, cause = len(repeats.differences), "", ""
    if count > 1:
        low, high = interval_of_mean(repeats.differences)
        interval = f" [{low:+.2f}, {high:+.2f}] on average"
    if repeats.threads[0] != repeats.threads[1]:
        numbers = f"{repeats.threads[1]} and {repeats.threads[0]}"
        cause = f" The numbers of threads differ too ({numbers}), so the cause may be either."
    others = [
        f"{after.contrast.name} would be {after.verdict} instead of {before.verdict}: {format_interval(after, ' BLEU')}"
        for before, after in _changed(repeats, findings, scores)
    ]
    return (
        f"**Do the processors of the runs matter?** Some runs were made a second time, on {second} instead of {first}. "
        f"Second run minus first: {repeats.mean:+.2f} BLEU{interval}, {count} run{'s' if count > 1 else ''} "
        f"([repeats]({REPEATS}/README.md)).{cause} If each run made only on {second} is corrected by this difference, "
        f"{'; '.join(others) or 'no verdict changes'}.{' The other verdicts stay.' if others else ''}"
    )


def _averaged(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[scores["checkpoint"] == CHECKPOINTS[0]].set_index(["variant", "seed"])
