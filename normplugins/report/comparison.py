"""Compares recorded runs with a baseline, as text for a terminal."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from normplugins.evaluation import significance
from normplugins.evaluation.significance import Difference
from normplugins.report.cells import SPREAD_SEEDS, mean_and_spread
from normplugins.report.contrasts import MARGIN, UNDECIDED, Contrast, Finding, judge
from normplugins.report.metrics import metric_name
from normplugins.report.table import build_table
from normplugins.runs.scored_runs import ScoredRun, System, read_test_text
from normplugins.utils.errors import UserError
from normplugins.utils.steps import progress
from normplugins.utils.terminal import Table, paragraph, terminal


def compare(systems: Sequence[System]) -> list[Finding]:
    """Compare each system with the first one, the baseline.

    Raises:
        UserError: two of them cannot be compared, or have no seed in common.
    """
    baseline, *others = systems
    for other in others:
        if not other.runs.keys() & baseline.runs.keys():
            seeds = " and ".join(", ".join(map(str, sorted(each.runs))) for each in (other, baseline))
            raise UserError(
                f"{other.name} and {baseline.name} have no seed in common: seeds {seeds}. Runs are paired by seed"
            )
    contrasts = [Contrast(other.name, baseline.name) for other in others]
    return judge(contrasts, {system.name: system for system in systems}, [set()] * len(others))


def as_text(systems: Sequence[System], findings: Sequence[Finding], width: int | None) -> str:
    """Return the scores and the contrasts as text of at most ``width`` columns (None: no limit)."""
    logging.getLogger("sacrebleu").setLevel(logging.WARNING)
    baseline, *others = systems
    blocks = [terminal(_scores(systems), width)]
    pairs = list(zip(others, findings, strict=True))
    for other, finding in progress(pairs, "testing", "comparisons", echo=None):
        assert finding.difference is not None  # compare() has refused systems without a common seed
        seed = finding.difference.seeds[0]
        tests = _tests(other.runs[seed], baseline.runs[seed])
        size = len(other.runs[seed].statistics)
        lines = _lines(finding, finding.difference, tests, baseline.first.metric, size)
        corpora = [run.record["corpus"] for system in (other, baseline) for run in system.runs.values()]
        if len({str((corpus.get("note"), corpus.get("counts", {}).get("train"))) for corpus in corpora}) > 1:
            lines.append("the runs were trained on different texts, so the difference is not only that of the norms")
        title = paragraph(f"{other.name} - {baseline.name}", width)
        blocks.append("\n".join([title, *(paragraph(f"  {line}", width, "    ") for line in lines)]))
    return "\n\n".join(blocks)


def _tests(system: ScoredRun, baseline: ScoredRun) -> dict[str, float]:
    """Return the p-values of other tests between two runs, by name."""
    first, second = system.statistics, baseline.statistics
    if baseline.metric != "ppl":
        return significance.sacrebleu_tests(first, second)
    if len(first) == 1:  # a perplexity without its log-probabilities
        return {}
    return {"approximate_randomization": significance.randomization(first, second, significance.nats)}


def _scores(systems: Sequence[System]) -> Table:
    first, rows = systems[0].first, []
    for system in systems:
        row = {"run": system.name}
        for name in first.metrics:
            scores = [run.metrics[name]["score"] for run in system.runs.values() if name in run.metrics]
            row[metric_name(name)] = mean_and_spread(scores) if scores else ""
        diverged = f" ({len(system.diverged)} diverged)" if system.diverged else ""
        rows.append(row | {"seeds": f"{len(system.runs)}{diverged}"})
    notes = [f"{metric_name(first.metric)}: {first.metrics[first.metric]['signature']}"]
    if any(len(each.runs) >= SPREAD_SEEDS for each in systems):
        notes.append("a ± b: mean and sample standard deviation over the seeds.")
    details = [metric_name(name) for name in first.metrics if name != first.metric]
    return build_table(f"Test scores of the checkpoint '{first.checkpoint}'", rows, ["run"], details, notes)


def _lines(finding: Finding, difference: Difference, tests: dict[str, float], metric: str, size: int) -> list[str]:
    """Return the facts of a finding, one per line; ``size`` is the number of sentences or segments of the test set."""
    perplexity, pairs = metric == "ppl", len(difference.seeds)
    unit, digits = ("nats per word", 4) if perplexity else (metric_name(metric), 2)
    low, high, *bootstrap = (
        f"{bound:+.{digits}f}" for bound in (difference.low, difference.high, *difference.bootstrap)
    )
    lines = [f"difference: {difference.mean:+.{digits}f} {unit}{' (less is better)' if perplexity else ''}"]
    if pairs > 1:
        which = "seeds" if perplexity else "seeds and sentences"
        adjusted = f", adjusted (Holm) {finding.p_adjusted:.2g}" if finding.p_adjusted != difference.p else ""
        lines.append(f"95 % interval over {which}: {low} to {high}, p = {difference.p:.2g}{adjusted}; {pairs} seeds")
        lines.append(f"hierarchical bootstrap, beside it: {' to '.join(bootstrap)} (too narrow with few seeds)")
    elif size > 1:
        units = "segments" if perplexity else "sentences"
        lines.append(f"95 % interval over {size:,} {units} of this one pair: {' to '.join(bootstrap)}")
    if tests:
        by = "over segments" if perplexity else "sacreBLEU's tests"
        values = ", ".join(f"{name.replace('_', ' ')} p = {p:.2g}" for name, p in tests.items())
        lines.append(f"{by}, seed {difference.seeds[0]} alone: {values}")
    return [*lines, f"verdict: {finding.verdict}{_advice(finding, perplexity)}"]


def _advice(finding: Finding, perplexity: bool) -> str:
    """Return what would decide an undecided contrast."""
    if finding.seeds == 1:
        return ". Run both with at least two more seeds"
    if finding.verdict != UNDECIDED or perplexity:
        return ""
    if finding.p_adjusted < significance.LEVEL:
        return "; the side that scored better has more runs that diverged"
    if finding.seeds < SPREAD_SEEDS:
        return ". Run both with at least one more seed"
    if finding.seeds_needed is None:
        return f"; no number of seeds would show {MARGIN} BLEU, because the variance between sentences is too large"
    return f"; about {finding.seeds_needed} seeds would show a true difference of {MARGIN} BLEU with a power of 80 %"


def sentences(system: System, baseline: System, count: int, data: Path, width: int | None) -> str:
    """Return the sentences whose BLEU differs most, with source and reference if the prepared corpus is under ``data``.

    The difference is the mean over the common seeds; the translations are from the first of these seeds.
    """
    seeds = sorted(system.runs.keys() & baseline.runs.keys())
    ours, theirs = (
        np.mean([significance.bleu(each.runs[seed].statistics, effective_order=True) for seed in seeds], axis=0)
        for each in (system, baseline)
    )
    order = np.argsort(-np.abs(ours - theirs), kind="stable")[:count]
    run, other = system.runs[seeds[0]], baseline.runs[seeds[0]]
    text = {side: read_test_text(run, data, side) for side in ("source", "reference")}
    blocks = [f"Sentences that differ most in sentence BLEU (translations of seed {seeds[0]})"]
    if None in text.values():
        blocks.append(
            paragraph(f"(source and reference: the prepared corpus is not under {data}; give --data DIR)", width)
        )
    for index in order:
        head = f"sentence {index + 1}: {ours[index] - theirs[index]:+.1f} ({theirs[index]:.1f} to {ours[index]:.1f})"
        lines = [(side, each[index]) for side, each in text.items() if each]
        lines += [(baseline.name, other.lines[index]), (system.name, run.lines[index])]
        blocks.append("\n".join([head, *(paragraph(f"  {name}: {line}", width, "    ") for name, line in lines)]))
    return "\n\n".join(blocks)
