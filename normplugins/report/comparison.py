"""Compares recorded runs with a baseline, as text for a terminal and as JSON."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from normplugins.evaluation import significance
from normplugins.evaluation.significance import Difference
from normplugins.report.table import Column, Table, paragraph, terminal
from normplugins.runs.scored_runs import METRICS, System, check_comparable, compare, read_test_text
from normplugins.utils.steps import progress

MARGIN = 0.4  # BLEU; the gain that the paper claims for PN on IWSLT14
NAMES = {"bleu": "BLEU", "bleu_compound": "BLEU, compounds split", "sacrebleu": "sacreBLEU", "chrf2": "chrF2",
         "ter": "TER", "ppl": "perplexity", "ppl_full_segments": "perplexity, full segments"}  # fmt: skip


@dataclass(frozen=True)
class Contrast:
    """A system against the baseline: ``tests`` holds p-values by name, which come from the pair's first common seed."""

    system: System
    found: Difference
    p_adjusted: float
    verdict: str
    tests: dict[str, float]
    seeds_needed: int | None


def contrasts(systems: Sequence[System]) -> list[Contrast]:
    """Compare each system with the first one.

    Raises:
        UserError: two of them cannot be compared, or have no seed in common.
    """
    baseline, *others = systems
    for other in others:
        check_comparable(other, baseline)
    logging.getLogger("sacrebleu").setLevel(logging.WARNING)
    found = [compare(other, baseline) for other in progress(others, "resampling", "comparisons", echo=None)]
    adjusted = significance.holm([each.p for each in found])
    perplexity = baseline.first.metric == "ppl"
    margin = None if perplexity else MARGIN
    rows = []
    pairs = list(zip(others, found, adjusted, strict=True))
    for other, each, p in progress(pairs, "testing", "comparisons", echo=None):
        diverged = (len(other.diverged), len(baseline.diverged))
        said = significance.verdict(each, p, margin, perplexity, diverged)
        needed = significance.seeds_needed(each, MARGIN) if margin and said == "undecided" else None
        rows.append(Contrast(other, each, p, said, _tests(other, baseline, each.seeds[0]), needed))
    return rows


def _tests(system: System, baseline: System, seed: int) -> dict[str, float]:
    first, second = system.runs[seed].statistics, baseline.runs[seed].statistics
    if baseline.first.metric != "ppl":
        return significance.sacrebleu_tests(first, second)
    if len(first) == 1:  # a perplexity without its log-probabilities
        return {}
    return {"approximate_randomization": significance.randomization(first, second, significance.nats)}


def as_json(systems: Sequence[System], found: Sequence[Contrast]) -> dict[str, Any]:
    """Return a comparison as JSON's types; a number that does not exist is null."""
    first = systems[0].first
    return {
        "checkpoint": first.checkpoint,
        "metric": "nats per word" if first.metric == "ppl" else first.metric,
        "signature": first.metrics[first.metric]["signature"],
        "baseline": systems[0].name,
        "scores": {
            system.name: {seed: {name: each["score"] for name, each in run.metrics.items()}
                          for seed, run in system.runs.items()}
            for system in systems
        },
        "diverged": {system.name: sorted(system.diverged) for system in systems},
        "contrasts": [
            {
                "system": each.system.name,
                **{key: None if isinstance(value, float) and math.isnan(value) else value
                   for key, value in asdict(each.found).items()},
                "p_adjusted": None if math.isnan(each.p_adjusted) else each.p_adjusted,
                "verdict": each.verdict,
                "tests_of_first_seed": each.tests,
                "seeds_needed": each.seeds_needed,
            }
            for each in found
        ],
    }  # fmt: skip


def as_text(systems: Sequence[System], found: Sequence[Contrast], width: int | None) -> str:
    """Return the scores and the contrasts as text of at most ``width`` columns (None: a file)."""
    return "\n\n".join([terminal(_scores(systems), width), *(_paragraphs(systems[0], each, width) for each in found)])


def _scores(systems: Sequence[System]) -> Table:
    first = systems[0].first
    columns = [Column("run", right=False), *(Column(NAMES.get(name, name), detail=name != first.metric)
                                           for name in first.metrics), Column("seeds")]  # fmt: skip
    rows = []
    for system in systems:
        cells = []
        for name in first.metrics:
            scores = [run.metrics[name]["score"] for run in system.runs.values() if name in run.metrics]
            spread = f" ± {np.std(scores, ddof=1):.2f}" if len(scores) > 1 else ""
            cells.append(f"{np.mean(scores):.2f}{spread}" if scores else "")
        diverged = f" ({len(system.diverged)} diverged)" if system.diverged else ""
        rows.append([system.name, *cells, f"{len(system.runs)}{diverged}"])
    title = f"Test scores of the checkpoint '{first.checkpoint}'"
    notes = ["a ± b: mean and sample standard deviation over the seeds."] * any(len(each.runs) > 1 for each in systems)
    return Table(title, columns, rows, [f"{NAMES[first.metric]}: {first.metrics[first.metric]['signature']}", *notes])


def _paragraphs(baseline: System, each: Contrast, width: int | None) -> str:
    found, perplexity = each.found, baseline.first.metric == "ppl"
    unit, digits = ("nats per word", 4) if perplexity else (NAMES[baseline.first.metric], 2)
    pairs = len(found.seeds)
    units = "segments" if perplexity else "sentences"
    lines = [f"difference: {found.mean:+.{digits}f} {unit}{' (less is better)' if perplexity else ''}"]
    low, high = found.bootstrap
    interval = f"{low:+.{digits}f} to {high:+.{digits}f}"
    if pairs > 1:
        adjusted = f", adjusted (Holm) {each.p_adjusted:.2g}" if each.p_adjusted != found.p else ""
        which = "seeds" if perplexity else "seeds and sentences"
        lines.append(
            f"95 % interval over {which}: {found.low:+.{digits}f} to {found.high:+.{digits}f}, "
            f"p = {found.p:.2g}{adjusted}; {pairs} seeds"
        )
        lines.append(f"hierarchical bootstrap, beside it: {interval} (too narrow with few seeds)")
    elif found.sentences > 1:
        lines.append(f"95 % interval over {found.sentences:,} {units} of this one pair: {interval}")
    if each.tests:
        tests = ", ".join(f"{name.replace('_', ' ')} p = {p:.2g}" for name, p in each.tests.items())
        by = "over segments" if perplexity else "sacreBLEU's tests"
        lines.append(f"{by}, seed {found.seeds[0]} alone: {tests}")
    advice = ""
    if pairs == 1:
        advice = ". Run both with at least two more seeds"
    elif each.verdict == "undecided" and not perplexity:
        advice = f"; {_remedy(each)}"
    lines.append(f"verdict: {each.verdict}{advice}")
    title = paragraph(f"{each.system.name} - {baseline.name}", width)
    return "\n".join([title, *(paragraph(f"  {line}", width, "    ") for line in lines)])


def _remedy(each: Contrast) -> str:
    if each.p_adjusted < significance.LEVEL:
        return "the side that scored better has more runs that diverged"
    if each.seeds_needed is None:
        return f"no number of seeds would show {MARGIN} BLEU, because the variance between sentences is too large"
    return f"about {each.seeds_needed} seeds would show a true difference of {MARGIN} BLEU with a power of 80 %"


def sentences(system: System, baseline: System, count: int, data: Path, width: int | None) -> str:
    """Return the sentences whose BLEU differs most, with source and reference if the prepared corpus is under ``data``.

    The difference is the mean over the common seeds, and the translations are of the first of them.
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


def can_show_sentences(system: System) -> bool:
    """Whether the runs have translations."""
    return METRICS[system.first.metric] is significance.bleu and bool(system.first.lines)
