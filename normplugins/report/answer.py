"""The answer of the records to the question of ``docs/protocol.md``: sentences, a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from normplugins.evaluation import significance
from normplugins.report.cells import SPREAD_SEEDS
from normplugins.report.contrasts import (
    CELLS,
    CHECKPOINTS,
    EXPERIMENT,
    EXPLORATORY,
    MARGIN,
    UNDECIDED,
    Finding,
    find,
)
from normplugins.report.plans import Plan
from normplugins.report.records import WHOLE
from normplugins.report.run_page import run_links
from normplugins.report.table import Table, build_table

Findings = Mapping[str, Sequence[Finding]]
"""The findings of each checkpoint, in the order of the contrasts."""
QUESTIONS = {
    "PN - LN": "Does PN as released translate better than LN?",
    "BN - LN": "Is BN worse than LN, as the paper presupposes?",
}
"""The question that a contrast answers alone."""
PARTS = {
    "PN - RMS in groups": "Running statistics, with PN's learnt shift, warmup and backward pass",
    "PN-V with group scaling - PN-V": "Group scaling",
}
"""The part of PN that a contrast isolates (amendment 15 of the protocol)."""
EFFECTS = {"better": "better with it", "worse": "worse with it", "equivalent": f"a change of less than {MARGIN} BLEU"}
"""What a verdict on such a contrast says."""
RULE = (
    "The scores are tokenized BLEU of lower-cased text on all four test sets together, of the mean of the last five "
    "epochs' checkpoints. The intervals are 95 % intervals over seeds and sentences, and p is adjusted by Holm's "
    "method, separately for the six confirmatory and the six exploratory contrasts. "
    "[docs/norms.md](../docs/norms.md) explains the norms, and the [protocol](../docs/protocol.md) says how a verdict "
    "is reached."
)
SCALING = "the scaling, under"
"""The beginning of what a contrast isolates if it is the group scaling of a norm with statistics."""
POWER = "seeds for\n80 % power"
TEXTS, DETAILS = ("contrast", "verdict"), ("p (Holm)", POWER, "diverged", "stopped\nearly")
"""Columns of the table of contrasts."""
TITLE = "multi30k: contrasts of test BLEU over paired seeds"


def read_findings(results: Path, resamples: int = significance.RESAMPLES) -> dict[str, list[Finding]]:
    """Return the findings of each checkpoint.

    Raises:
        UserError: a record or its translations are damaged, or two cells cannot be compared.
    """
    return {checkpoint: find(results, checkpoint, resamples=resamples) for checkpoint in CHECKPOINTS}


def sentences(results: Path, findings: Findings) -> list[str]:
    """Return the answer in about ten plain sentences, as Markdown.

    Args:
        results: the folder of the records.
        findings: the findings of each checkpoint.
    """
    primary = findings[CHECKPOINTS[0]]
    by_name = {each.contrast.name: each for each in primary}
    better, worse = (f"**{question}** {conclusion(by_name[name])}" for name, question in QUESTIONS.items())
    others = [each for name, each in by_name.items() if name not in QUESTIONS and name not in PARTS]
    return [state(results, primary), better, _parts(by_name), worse, _others(others), _checkpoints(findings), RULE]


def state(results: Path, primary: Sequence[Finding]) -> str:
    """Return how many of the planned runs are published, and how many of the contrasts have a verdict."""
    progress = Plan.named(EXPERIMENT).progress(results)
    lost = f", and {progress.diverged} diverged" if progress.diverged else ""
    runs = f"{progress.published} of {progress.planned} planned runs of Multi30k are published{lost}"
    decided = sum(each.decided and each.complete for each in primary)
    verdicts = f"{decided} of {len(primary)} contrasts have a verdict."
    if not progress.left:
        return f"No planned run is left: {runs}. {verdicts}"
    most = max(each.seeds for each in primary)
    seeds = f" No contrast has more than {most} seed{'' if most == 1 else 's'} yet." if most < SPREAD_SEEDS else ""
    return f"**The answer is incomplete:** {runs}. {verdicts}{seeds}"


def conclusion(found: Finding) -> str:
    """Return what a contrast shows so far, in one or two sentences: verdict, figures, and what the paper says."""
    system, baseline = CELLS[found.contrast.system], CELLS[found.contrast.baseline]
    words = {
        "better": f"{system} is better than {baseline}",
        "worse": f"{system} is worse than {baseline}",
        "equivalent": f"the two are equivalent within ±{MARGIN} BLEU",
    }
    if found.difference is None:
        return "Not run: no seed has both runs."
    if found.seeds == 1:
        return f"No verdict with one seed. {found.contrast.name}: {figures(found)}."
    parts = [words[part] for part in found.verdict.split(", ") if part in words]
    text = " and ".join(parts)[:1].upper() + " and ".join(parts)[1:] if parts else "Undecided"
    text += "" if found.complete else " so far"
    if not parts and found.p_adjusted < significance.LEVEL:
        text += ", because the side that scored better has more runs that diverged"
    return f"{text}. {found.contrast.name}: {figures(found)}. {agreement(found)}".strip()


def figures(found: Finding, p_value: bool = True) -> str:
    """Return the difference with its interval and number of seeds, such as ``+0.38 BLEU [-0.01, +0.76], 9 seeds``."""
    if found.difference is None:
        return "not run"
    seeds = f"{found.seeds} seeds" if found.complete else f"{found.seeds} of {found.planned} seeds"
    seeds = "one seed, interval over sentences alone" if found.seeds == 1 else seeds
    p = "" if found.seeds == 1 or not p_value else f", adjusted p = {found.p_adjusted:.2g}"
    lost = f", diverged: {found.diverged[0]} and {found.diverged[1]}" if any(found.diverged) else ""
    return f"{_interval(found, ' BLEU')}, {seeds}{p}{lost}"


def paired_runs(results: Path, *findings: Finding) -> str:
    """Return Markdown links to the pages of the runs that these findings compare: those of the seeds of both sides."""
    used: dict[str, set[int]] = {}
    for found in findings:
        for cell in (found.contrast.system, found.contrast.baseline):
            used.setdefault(cell, set()).update(found.difference.seeds if found.difference else ())
    return "; ".join(run_links(results, EXPERIMENT, cell, seeds=seeds) for cell, seeds in used.items() if seeds)


def agreement(found: Finding) -> str:
    """Return whether a verdict agrees with what the paper claims; an empty text if the paper claims nothing."""
    claimed, parts = found.contrast.paper, found.verdict.split(", ")
    if not claimed or found.seeds < 2:
        return ""
    opposite = "worse" if claimed == "better" else "better"
    if claimed in parts and "equivalent" in parts:
        return f"This agrees with the paper in direction, but the difference is less than {MARGIN} BLEU."
    if claimed in parts:
        return "This agrees with the paper."
    if opposite in parts:
        return "This contradicts the paper."
    if "equivalent" in parts:
        return f"This contradicts the paper's claim of a difference of {MARGIN} BLEU or more."
    return "This neither confirms nor contradicts the paper."


def _parts(by_name: Mapping[str, Finding]) -> str:
    """Return what the contrasts of running statistics and of group scaling say (amendment 15 of the protocol)."""
    said = []
    for name, part in PARTS.items():
        found = by_name[name]
        effect = " and ".join(EFFECTS[word] for word in found.verdict.split(", ") if word in EFFECTS)
        marked = f"{effect} so far" if effect and not found.complete else effect or found.verdict_so_far
        said.append(f"{part}: {marked}. {name}: {figures(found)}.")
    scaling = scaling_effect([*by_name.values()])
    return f"**Which part of PN matters, running statistics or group scaling?** {' '.join([*said, scaling]).strip()}"


def _others(findings: Sequence[Finding]) -> str:
    decided = [f"{each.contrast.name}: {verdict(each)}" for each in findings if each.decided]
    return (
        f"**What do the other {len(findings)} contrasts show?** {'; '.join(decided) or 'None has a verdict'}. Three "
        "seeds hardly ever decide an exploratory one (amendment 4 of the protocol): read its estimate and interval."
    )


def _checkpoints(findings: Findings) -> str:
    every = zip(*(findings[name] for name in CHECKPOINTS), strict=True)
    scored = {row[0].contrast.name: [each.difference.mean for each in row if each.difference] for row in every}
    scored = {name: means for name, means in scored.items() if len(means) == len(CHECKPOINTS)}
    turned = [name for name, means in scored.items() if min(means) < 0 < max(means)]
    said = "the averaged, the last and the best checkpoint"
    if turned:
        which = f"disagree on the sign of the difference: {'; '.join(turned)}"
        said = f"In {len(turned)} of {len(scored)} contrasts, {said} {which}."
    else:
        said = f"In all {len(scored)} contrasts, {said} agree on the sign of the difference."
    return f"**Does the choice of the checkpoint matter?** {said}"


def _last_checkpoint(found: pd.DataFrame) -> list[str]:
    """Return how often the last checkpoint is the best one too, and what averaging does to the length of the output."""
    scores = found[_planned(found) & (found["metric"] == "bleu") & (found["test_set"] == WHOLE)]
    runs = scores.pivot(index=["variant", "seed"], columns="checkpoint", values=["value", "brevity"])
    if not {*CHECKPOINTS} <= {*scores["checkpoint"]}:
        return []
    runs = runs.dropna()
    averaged, last = (runs["brevity", name].mean() for name in ("averaged", "last"))
    curves = scores.drop_duplicates(["variant", "seed"]).set_index(["variant", "seed"]).loc[runs.index, "valid_curve"]
    same = sum(bool(curve) and curve[-1][1] == min(loss for _, loss in curve) for curve in curves)
    return [
        f"In {same} of {len(runs)} runs, the last epoch has the lowest validation loss, so that *last* and *best* are "
        f"one checkpoint. Averaging {'shortens' if averaged < last else 'does not shorten'} the output: the mean "
        f"brevity penalty is {averaged:.3f} for averaged checkpoints and {last:.3f} for last ones."
    ]


def scaling_effect(findings: Sequence[Finding]) -> str:
    """Return in how many pairs of runs the one with group scaling scores higher, and by how much; "" without any."""
    scaling = [each for each in findings if each.difference and each.contrast.isolates.startswith(SCALING)]
    gains = [gain for each in scaling if each.difference for gain in each.difference.by_seed]
    if not gains:
        return ""
    norms = [CELLS[each.contrast.baseline].removesuffix(" without group scaling") for each in scaling]
    higher = sum(gain > 0 for gain in gains)
    return (
        f"In {higher} of {len(gains)} pairs of runs that differ in group scaling alone ({', '.join(norms)}), the run "
        f"with it scores higher; the differences are {min(gains):+.2f} to {max(gains):+.2f} BLEU."
    )


def _planned(found: pd.DataFrame) -> pd.Series[bool]:
    return (found["experiment"] == EXPERIMENT) & found["variant"].isin([*CELLS])


def verdict(found: Finding) -> str:
    """Return a finding's verdict as a table has it, marked if it is exploratory or its plan is incomplete."""
    mark = "exploratory: " if found.seeds > 1 and found.contrast.family == EXPLORATORY else ""
    return f"{mark}{found.verdict_so_far}"


def contrast_table(findings: Findings, found: pd.DataFrame) -> Table:
    """Return the table of all contrasts; ``found`` holds the records, as ``read_results`` returns them."""
    runs = found[_planned(found)].drop_duplicates(["variant", "seed"])
    ended = runs[runs["diverged"] == ""]
    rows = []
    for first, *others in zip(*(findings[name] for name in CHECKPOINTS), strict=True):
        needed = ""
        if first.verdict == UNDECIDED and first.seeds >= SPREAD_SEEDS:
            needed = "none" if first.seeds_needed is None else str(first.seeds_needed)
        rows.append({
            "contrast": first.contrast.name,
            "averaged [95 %]": _interval(first),
            "p (Holm)": f"{first.p_adjusted:.2g}" if first.seeds > 1 else "",
            **{name: f"{each.difference.mean:+.2f}" if each.difference else ""
               for name, each in zip(CHECKPOINTS[1:], others, strict=True)},
            "seeds": f"{first.seeds} of {first.planned}",
            "verdict": verdict(first),
            POWER: needed,
            "diverged": " and ".join(map(str, first.diverged)),
            "stopped\nearly": str(first.stopped_early),
        })  # fmt: skip
    notes = [
        "A difference is the test BLEU of the first norm minus that of the second, with the seeds that both have. "
        f"*Equivalent*: the whole interval lies within ±{MARGIN} BLEU. Verdicts rest on the averaged checkpoints; "
        "[contrasts.csv](contrasts.csv) also has the intervals of last and best checkpoints, and those of the "
        "hierarchical bootstrap.",
        f"Of {len(runs)} runs, {len(runs) - len(ended)} diverged and {(ended['stopped_by'] == 'patience').sum()} "
        "stopped early.",
        *_last_checkpoint(found),
    ]
    if any(row[POWER] for row in rows):
        notes.append(f"Seeds for 80 % power: at a true difference of {MARGIN} BLEU, before the adjustment of p.")
    if any(each.seeds == 1 for each in findings[CHECKPOINTS[0]]):
        notes.append("With one seed, the interval is over sentences alone and leaves out the spread between seeds.")
    table = build_table("Contrasts", rows, TEXTS, DETAILS, notes, slug="contrasts")
    return table.folded(("", "0 and 0", "0"))


def _interval(found: Finding, unit: str = "") -> str:
    if found.difference is None or found.interval is None:
        return ""
    return f"{found.difference.mean:+.2f}{unit} [{found.interval[0]:+.2f}, {found.interval[1]:+.2f}]"


def as_csv(findings: Findings) -> str:
    """Return all findings as CSV, a row for each contrast and checkpoint."""
    rows = []
    for checkpoint, every in findings.items():
        for each in every:
            found = each.difference
            numbers = [found.mean, found.low, found.high, found.p, *found.bootstrap] if found else [None] * 6
            rows.append([
                each.contrast.system, each.contrast.baseline, each.contrast.family, checkpoint, each.seeds,
                each.planned, *numbers, each.p_adjusted, each.verdict if checkpoint == CHECKPOINTS[0] else "",
                each.seeds_needed, *each.diverged,
            ])  # fmt: skip
    columns = ["system", "baseline", "family", "checkpoint", "seeds", "planned", "difference", "low", "high", "p",
               "bootstrap_low", "bootstrap_high", "p_holm", "verdict", "seeds_needed", "diverged_system",
               "diverged_baseline"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns).to_csv(index=False, float_format="%.6g")
