"""The contrasts of ``docs/protocol.md``, and what the published records say about each of them."""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from normplugins.evaluation import significance
from normplugins.evaluation.significance import RESAMPLES, Difference
from normplugins.report.cells import SPREAD_SEEDS
from normplugins.report.plans import Plan, plan_of
from normplugins.runs.scored_runs import METRICS, System, check_comparable, read_published

EXPERIMENT = "multi30k"
MARGIN = 0.4
"""Systems are equivalent if their interval lies within ± this (BLEU): the paper's gain for PN over LN on IWSLT14."""
CHECKPOINTS = ("averaged", "last", "best")
"""The checkpoint of the primary endpoint, then those of the secondary ones, which have no verdict of their own."""
CELLS = {
    "ln": "LN",
    "pn": "PN",
    "bn": "BN",
    "pnv": "PN-V",
    "pnv,norm.group_scaling=true": "PN-V with group scaling",
    "rms,norm.groups=4": "RMS in groups",
    "pn,norm.group_scaling=false": "PN without group scaling",
    "bn_released": "BN as released",
    "pn_alg2": "PN as written",
    "pn_alg2,norm.group_scaling=true": "PN as written with group scaling",
    "rms": "RMS",
    "bn,norm.group_scaling=true": "BN with group scaling",
}
"""The name of each cell in texts, by the folder of its runs."""
UNDECIDED, NOT_RUN = "undecided", "not run"
NO_VERDICT = (UNDECIDED, "one seed: no verdict", NOT_RUN)
CONFIRMATORY, EXPLORATORY = "confirmatory", "exploratory"


@dataclass(frozen=True)
class Contrast:
    """Two cells that are compared; ``docs/protocol.md`` says what each difference isolates.

    ``paper`` is what the paper claims about the system, ``better`` or ``worse``; empty if it claims nothing.
    """

    system: str
    baseline: str
    family: str = CONFIRMATORY
    paper: str = ""

    @property
    def name(self) -> str:
        """The difference in words, such as ``PN - LN``."""
        return f"{_cell_title(self.system)} - {_cell_title(self.baseline)}"


def _cell_title(cell: str) -> str:
    """Return the name of a cell in texts: its entry in ``CELLS``, or else the name of its norm with its settings."""
    norm, _, settings = cell.partition(",")
    return CELLS.get(cell) or ", ".join(filter(None, [CELLS.get(norm, norm), settings.replace(",", ", ")]))


CONTRASTS = (
    Contrast("pn", "ln", paper="better"),
    Contrast("pn", "rms,norm.groups=4"),
    Contrast("pn", "pnv,norm.group_scaling=true"),
    Contrast("pnv,norm.group_scaling=true", "pnv"),
    Contrast("rms,norm.groups=4", "ln"),
    Contrast("bn", "ln", paper="worse"),
    Contrast("pn", "pn,norm.group_scaling=false", EXPLORATORY),
    Contrast("pn_alg2,norm.group_scaling=true", "pn_alg2", EXPLORATORY),
    Contrast("bn,norm.group_scaling=true", "bn", EXPLORATORY),
    Contrast("rms,norm.groups=4", "rms", EXPLORATORY),
    Contrast("bn_released", "bn", EXPLORATORY),
    Contrast("pn_alg2", "pn,norm.group_scaling=false", EXPLORATORY),
)
"""The contrasts in the order of the protocol. A test compares them with ``docs/protocol.md``."""


@dataclass(frozen=True)
class Finding:
    """What the records say about a contrast at one checkpoint.

    Attributes:
        contrast: the contrast.
        difference: the difference of test BLEU; None if the two cells have no seed in common.
        planned: the number of planned pairs, if there is a plan.
        diverged: the number of runs that diverged, of the system and of the baseline. With a plan, only its seeds
            count here and in ``stopped_early``.
        ended: the number of runs with a score, of the system and of the baseline.
        complete: whether every planned pair has a difference or a run that diverged.
        stopped_early: the number of runs that ended by early stopping (patience).
        p_adjusted: the p-value adjusted by Holm's method within the family; NaN with fewer than two pairs.
        verdict: by the protocol's rule, such as ``better`` or ``worse, equivalent``; ``not run`` without a pair.
        final: True if the runs that are still planned cannot change the verdict.
        seeds_needed: the number of seeds that would decide an undecided contrast; None if no number would, if there are
            fewer than ``SPREAD_SEEDS`` seeds, or for perplexities, which have no margin.
    """

    contrast: Contrast
    difference: Difference | None
    planned: int
    diverged: tuple[int, int] = (0, 0)
    ended: tuple[int, int] = (0, 0)
    complete: bool = True
    stopped_early: int = 0
    p_adjusted: float = math.nan
    verdict: str = NOT_RUN
    final: bool = False
    seeds_needed: int | None = None

    @property
    def seeds(self) -> int:
        """The number of pairs."""
        return len(self.difference.seeds) if self.difference else 0

    @property
    def decided(self) -> bool:
        """Whether the rule gives a verdict other than undecided."""
        return self.verdict not in NO_VERDICT

    @property
    def worse(self) -> bool:
        """Whether the system is worse, or only its runs diverged: all of them, and at least ``SPREAD_SEEDS``."""
        lost = self.diverged[0] >= SPREAD_SEEDS and not self.ended[0] and self.ended[1] and not self.diverged[1]
        return bool(lost) or "worse" in self.parts

    @property
    def parts(self) -> list[str]:
        """The words of the verdict, such as ``worse`` and ``equivalent``."""
        return self.verdict.split(", ")

    @property
    def verdict_so_far(self) -> str:
        """The verdict, marked if planned runs can still change it."""
        return so_far(self.verdict, self.seeds < 2 or self.final)


def so_far(verdict: str, final: bool) -> str:
    """Mark a verdict that planned runs can still change."""
    return verdict if final else f"{verdict} so far"


def format_interval(found: Finding, unit: str = "") -> str:
    """Return a difference with its 95 % interval; "" if there is no difference."""
    if found.difference is None:
        return ""
    low, high = found.difference.interval
    return f"{found.difference.mean:+.2f}{unit} [{low:+.2f}, {high:+.2f}]"


def find(
    results: Path,
    checkpoint: str = CHECKPOINTS[0],
    experiment: str = EXPERIMENT,
    contrasts: Sequence[Contrast] = CONTRASTS,
    resamples: int = RESAMPLES,
    plan: Plan | None = None,
) -> list[Finding]:
    """Return what the published records of an experiment say about each contrast.

    ``plan`` says how many pairs there will be; it is the experiment's own plan by default. p-values are adjusted within
    each family of the ``contrasts``.

    Raises:
        UserError: a record or its translations are damaged, or two cells cannot be compared.
    """
    plan = plan or plan_of(experiment)
    cells = [cell for contrast in contrasts for cell in (contrast.system, contrast.baseline)]
    systems = {cell: read_published(experiment, cell, results, checkpoint) for cell in dict.fromkeys(cells)}
    planned = [{*plan.seeds(experiment, each.system)} & {*plan.seeds(experiment, each.baseline)} for each in contrasts]
    return judge(contrasts, systems, planned, resamples)


def judge(
    contrasts: Sequence[Contrast],
    systems: Mapping[str, System],
    planned: Sequence[Set[int]],
    resamples: int = RESAMPLES,
) -> list[Finding]:
    """Return a finding for each contrast, by the rule of the protocol.

    p-values are adjusted within each family of the contrasts. ``systems`` have the names that the contrasts use for
    them; ``planned`` has the seeds of each contrast's planned pairs, and is empty without a plan.

    Raises:
        UserError: two systems cannot be compared.
    """
    scored = [system for system in systems.values() if system.runs]
    for system in scored[1:]:
        check_comparable(system, scored[0])
    metric = scored[0].first.metric if scored else "bleu"
    perplexity = metric == "ppl"
    statistics = [run.statistics for system in scored for run in system.runs.values()]
    drawn = iter(significance.resample(statistics, METRICS[metric], resamples))  # the same sentences for every run
    runs = {name: {seed: next(drawn) for seed in system.runs} for name, system in systems.items()}
    findings = []
    for contrast, seeds in zip(contrasts, planned, strict=True):
        sides = systems[contrast.system], systems[contrast.baseline]
        counted = seeds or {seed for side in sides for seed in (*side.runs, *side.diverged)}
        ours, theirs = (
            {seed: run for seed, run in runs[name].items() if seed in counted}
            for name in (contrast.system, contrast.baseline)
        )
        paired = ours.keys() & theirs.keys()
        difference = significance.paired_difference(ours, theirs, sentences=not perplexity) if paired else None
        lost = [counted & {*side.diverged} for side in sides]
        known = {*(difference.seeds if difference else ())}.union(*lost)
        early = sum(run.record.get("training", {}).get("stopped_by") == "patience"
                    for side in sides for seed, run in side.runs.items() if seed in counted)  # fmt: skip
        diverged, ended = (len(lost[0]), len(lost[1])), (len(ours), len(theirs))
        findings.append(Finding(contrast, difference, len(seeds), diverged, ended, seeds <= known, early))
    return with_verdicts(findings, perplexity)


def with_verdicts(findings: Sequence[Finding], perplexity: bool = False) -> list[Finding]:
    """Return findings with adjusted p-values and verdicts, by the rule of the protocol."""
    contrasts = [each.contrast for each in findings]
    p_values = pd.Series([math.nan if each.difference is None else each.difference.p for each in findings])
    complete = pd.Series([each.complete for each in findings], dtype=bool)
    # Complete contrasts are adjusted as if incomplete ones had p = 1, so that later runs cannot increase their
    # p-values.
    adjusted = _holm(p_values.where(complete, 1.0), contrasts).where(complete, _holm(p_values, contrasts))
    lowest = _holm(p_values.where(complete, 0.0), contrasts)  # what later runs can reduce p-values to
    final = complete & ((lowest < significance.LEVEL) == (adjusted < significance.LEVEL))
    return [_with_verdict(replace(each, p_adjusted=p, final=is_final), perplexity)
            for each, p, is_final in zip(findings, adjusted, final, strict=True)]  # fmt: skip


def _holm(p_values: pd.Series, contrasts: Sequence[Contrast]) -> pd.Series:
    families = p_values.groupby([contrast.family for contrast in contrasts])
    return families.transform(lambda family: pd.Series(significance.holm(list(family)), family.index))


def _with_verdict(found: Finding, perplexity: bool) -> Finding:
    verdict, needed, p, difference = NOT_RUN, None, found.p_adjusted, found.difference
    if difference is not None:
        verdict = significance.verdict(difference, p, None if perplexity else MARGIN, perplexity, found.diverged)
        if verdict == UNDECIDED and not perplexity and found.seeds >= SPREAD_SEEDS:
            needed = significance.seeds_needed(difference, MARGIN)
    return replace(found, verdict=verdict, seeds_needed=needed)
