"""States in sentences what the records say about the questions of ``docs/protocol.md``."""

import math
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import pandas as pd

from normplugins.evaluation import significance
from normplugins.report import processors
from normplugins.report.cells import SPREAD_SEEDS
from normplugins.report.contrasts import (
    CELLS,
    CHECKPOINTS,
    CONFIRMATORY,
    EXPERIMENT,
    EXPLORATORY,
    MARGIN,
    Contrast,
    Finding,
    find,
    format_interval,
    so_far,
)
from normplugins.report.group_scaling import scaled_tokens
from normplugins.report.plans import NU_BOUND, Plan
from normplugins.report.probe_table import LAST_EPOCHS, losses_minus_ln, mean_and_range
from normplugins.report.records import WHOLE_TEST_SET

Findings = Mapping[str, Sequence[Finding]]
"""The findings of each checkpoint, in the order of the contrasts."""
QUESTIONS = {
    "PN - LN": "Does PN as released translate better than LN?",
    "BN - LN": "Is textbook BN worse than LN?",
}
"""The question that each of these contrasts answers by itself."""
PARTS = {
    "PN - RMS in groups": "Running statistics, together with PN's learned shift, warmup and backward pass",
    "PN-V with group scaling - PN-V": "Group scaling, tested in PN-V",
}
"""The part of PN that each of these contrasts isolates (amendment 15 of the protocol)."""
EFFECTS = {"better": "a better score", "worse": "a worse score", "equivalent": f"no effect of {MARGIN} BLEU or more"}
"""What the part of PN that a contrast isolates causes, by the contrast's verdict."""
RULE = (
    "Scores are tokenized BLEU on lower-cased text, on all four test sets together. The scored model is the mean of "
    "the last five epochs' checkpoints. The intervals are 95 % intervals over seeds and sentences, not adjusted. "
    "Holm's method adjusts p, separately for the six confirmatory and the six exploratory contrasts{incomplete}. A "
    "decided contrast is better, worse or equivalent. The verdicts apply to this corpus and this small model. "
    "[docs/norms.md](../docs/norms.md) explains the norms. The [protocol](../docs/protocol.md) says how a verdict is "
    "reached, and which of its rules were made after scores were known."
)
INCOMPLETE = "; for a complete contrast, it counts every incomplete one as p = 1"
"""How Holm's method counts contrasts whose runs are not all published."""
RELEASED = Contrast("bn_released", "ln")
"""BN as released is most likely the BN of the paper; the protocol has no contrast of it with LN."""


def sentences(results: Path, findings: Findings, found: pd.DataFrame, probe: pd.DataFrame) -> list[str]:
    """Return the answer in about ten plain sentences, as Markdown.

    Raises:
        UserError: a record or its translations are damaged, or two cells cannot be compared.
    """
    primary = findings[CHECKPOINTS[0]]
    by_name = {each.contrast.name: each for each in primary}
    scores = scores_on_test(found)
    better, worse = (
        f"**{question}** {describe_verdict(by_name[name])}{_of_length(by_name[name], scores)}"
        for name, question in QUESTIONS.items()
    )
    (released,) = find(results, contrasts=[RELEASED])
    worse += (
        " The BN of the released code, which is most likely the paper's, scales each token first. "
        f"{RELEASED.name}: {describe_difference(released, p_value=False)}; the protocol has no such contrast."
    )
    worse += _statistics_of_bn(probe)
    others = [each for name, each in by_name.items() if name not in QUESTIONS and name not in PARTS]
    return [
        describe_progress(results, primary),
        better,
        " ".join(filter(None, [_parts(by_name), scaled_tokens(scores), _short_runs(results)])),
        worse,
        _others(others),
        _checkpoints(findings),
        *filter(None, [processors.sensitivity(results, primary, scores)]),
        RULE.format(incomplete="" if all(each.complete for each in primary) else INCOMPLETE),
    ]


def planned_cells(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the cells of Multi30k that the protocol compares."""
    return found[(found["experiment"] == EXPERIMENT) & found["variant"].isin([*CELLS])]


def scores_on_test(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the planned cells that hold the BLEU on the whole test set."""
    found = planned_cells(found)
    return found[(found["metric"] == "bleu") & (found["test_set"] == WHOLE_TEST_SET)]


def without_penalty(finding: Finding, scores: pd.DataFrame) -> str:
    """Return the mean difference of BLEU / brevity penalty for the averaged checkpoint; "" if there is none.

    ``scores`` is what :func:`scores_on_test` returns.
    """
    if finding.difference is None:
        return ""
    scores = scores[(scores["checkpoint"] == CHECKPOINTS[0]) & scores["seed"].isin(finding.difference.seeds)]
    means = (scores["value"] / scores["brevity"]).groupby(scores["variant"]).mean()
    difference = means.get(finding.contrast.system, math.nan) - means.get(finding.contrast.baseline, math.nan)
    return "" if math.isnan(difference) else f"{difference:+.2f}"


def _of_length(finding: Finding, scores: pd.DataFrame) -> str:
    difference = without_penalty(finding, scores)
    return (
        f" Without BLEU's penalty for short translations, it is {difference} BLEU (not tested)." if difference else ""
    )


def describe_progress(results: Path, primary: Sequence[Finding]) -> str:
    """Return how many of the planned runs are published, and how many of the contrasts are decided."""
    progress = Plan.named(EXPERIMENT).progress(results)
    lost = f", and {progress.diverged} diverged" if progress.diverged else ""
    runs = f"{progress.published} of {progress.planned} planned runs of Multi30k are published{lost}"
    complete = sum(each.complete for each in primary if each.difference)
    decided = sum(each.decided and each.final for each in primary)
    verdicts = f"Contrasts: {complete} of {len(primary)} complete, {decided} decided."
    if not progress.left:
        return f"**The protocol is complete:** {runs}. {verdicts}"
    most = max(each.seeds for each in primary)
    seeds = f" No contrast has more than {most} seed{'' if most == 1 else 's'} yet." if most < SPREAD_SEEDS else ""
    return f"**The protocol is incomplete:** {runs}. {verdicts}{seeds}"


def describe_verdict(found: Finding) -> str:
    """Return what a contrast shows so far, in one or two sentences: verdict, figures, and what the paper says."""
    system, baseline = CELLS[found.contrast.system], CELLS[found.contrast.baseline]
    words = {
        "better": f"{system} is better than {baseline}",
        "worse": f"{system} is worse than {baseline}",
        "equivalent": f"the two are equivalent within ±{MARGIN} BLEU",
    }
    if found.difference is None and any(found.diverged):
        return f"No seed has two scores. {found.contrast.name}: {describe_difference(found)}."
    if found.difference is None:
        return "Not run: no seed has both runs."
    if found.seeds == 1:
        return f"No verdict with one seed. {found.contrast.name}: {describe_difference(found)}."
    said = " and ".join(words[part] for part in found.parts if part in words)
    text = so_far(said[:1].upper() + said[1:] if said else "Undecided", found.final)
    if not said and found.p_adjusted < significance.LEVEL:
        text += ", because the side that scored better has more runs that diverged"
    return f"{text}. {found.contrast.name}: {describe_difference(found)}. {agreement(found)}".strip()


def format_p(p: float) -> str:
    """Return a p-value with two digits, or with more if it would stand on the other side of the significance level."""
    shown = (f"{p:.2f}" if p > 0.095 else f"{p:.{digits}g}" for digits in count(2))
    return next(text for text in shown if (float(text) < significance.LEVEL) == (p < significance.LEVEL))


def describe_difference(found: Finding, p_value: bool = True) -> str:
    """Return the difference with its interval and number of seeds, such as ``+0.38 BLEU [-0.01, +0.76], 9 seeds``."""
    lost = f"diverged: {found.diverged[0]} and {found.diverged[1]}" if any(found.diverged) else ""
    if found.difference is None:
        return lost or "not run"
    seeds = f"{found.seeds} seeds" if found.complete else f"{found.seeds} of {found.planned} seeds"
    parts = [format_interval(found, " BLEU"), seeds if found.seeds > 1 else "one seed, interval over sentences alone"]
    if p_value and found.seeds > 1:
        parts += [f"p = {format_p(found.difference.p)}", f"adjusted {format_p(found.p_adjusted)}"]
    return ", ".join(filter(None, [*parts, lost]))


def agreement(found: Finding) -> str:
    """Return whether a finding agrees with the paper (a sentence); "" if the paper claims nothing or with one seed."""
    claimed, parts = found.contrast.paper, found.parts
    if not claimed or found.seeds < 2:
        return ""
    opposite = "worse" if claimed == "better" else "better"
    if claimed in parts and "equivalent" in parts:
        return f"The direction is the one that the paper reports, but the difference is less than {MARGIN} BLEU."
    if claimed in parts:
        return "The direction is the one that the paper reports."
    if opposite in parts:
        return "The direction is the opposite of the one that the paper reports."
    if "equivalent" in parts:
        return f"The paper reports a difference of {MARGIN} BLEU or more on its corpora."
    reason = ""
    if found.difference:
        low, high = found.difference.interval
        if claimed == "better" and low < 0 < MARGIN < high:
            reason = f": the interval contains both 0 and +{MARGIN} BLEU, the paper's gain on IWSLT14"
        elif small := small_before_holm(found):
            reason = f": {small}"
    return f"This neither confirms nor contradicts the paper{reason}."


def small_before_holm(found: Finding) -> str:
    """Return why Holm's method leaves a contrast undecided that is significant by itself; "" for all others."""
    alone = found.difference is not None and found.difference.p < significance.LEVEL <= found.p_adjusted
    return f"p is below {significance.LEVEL} only before Holm's adjustment" if alone and not found.decided else ""


def _statistics_of_bn(probe: pd.DataFrame) -> str:
    """Return how far BN's validation loss is from LN's, with either kind of statistics; "" without such runs."""
    losses = losses_minus_ln(probe)
    if "bn" not in losses.index:
        return ""
    running, batch = (mean_and_range(losses.loc["bn"][column]) for column in ("loss", "train_mode_loss"))
    return (
        f" Over the last {LAST_EPOCHS} epochs, BN's label-smoothed validation loss minus LN's is {running} bits with "
        f"running statistics, and {batch} bits with the statistics of each batch. Parentheses give the lowest and the "
        "highest seed ([all cells](#validation-loss-minus-that-of-ln))."
    )


def _parts(by_name: Mapping[str, Finding]) -> str:
    """Return what the contrasts of running statistics and of group scaling say (amendment 15 of the protocol)."""
    effects = []
    for name, part in PARTS.items():
        found = by_name[name]
        effect = " and ".join(EFFECTS[word] for word in found.parts if word in EFFECTS)
        marked = so_far(effect, found.final) if effect else found.verdict_so_far
        effects.append(f"{part}: {marked}. {name}: {describe_difference(found)}.")
    return f"**Which part of PN matters, running statistics or group scaling?** {' '.join(effects)}"


def scaling_in_short_runs(results: Path) -> list[Finding]:
    """Return what group scaling changes in the runs of half the epochs, for PN and for PN as written."""
    plan = Plan.named(NU_BOUND)
    scaled, plain, written_scaled, written = (cell for _, cell in plan.cells)
    return find(results, contrasts=[Contrast(scaled, plain), Contrast(written_scaled, written)], plan=plan)


def _short_runs(results: Path) -> str:
    """Return :func:`scaling_in_short_runs` in sentences; "" without these runs."""
    found = scaling_in_short_runs(results)
    if not all(each.difference for each in found):
        return ""
    said = "; ".join(
        f"{CELLS[norm]}: {describe_difference(each)}, {EXPLORATORY}: {each.verdict_so_far}"
        for norm, each in zip(("pn", "pn_alg2"), found, strict=True)
    )
    return (
        "The runs of the plan [nu_bound](#multi30k-nu_bound) train for half the epochs, and no protocol was written "
        "before them. In these runs, with group scaling minus without it (p adjusted over the two differences), "
        f"{said}."
    )


def _others(findings: Sequence[Finding]) -> str:
    judged = [f"{each.contrast.name}: {describe_difference(each)}, {verdict_label(each)}" for each in findings
              if each.decided or each.contrast.family == CONFIRMATORY]  # fmt: skip
    rest = len(findings) - len(judged)
    few = (
        f" The other {rest} are exploratory and undecided. Their three planned seeds can rarely decide one (amendment "
        "4 of the protocol), so read their estimates and intervals."
    )
    return f"**What do the other {len(findings)} contrasts show?** {'; '.join(judged)}.{few if rest else ''}"


def _checkpoints(findings: Findings) -> str:
    """Return the differences of PN - LN with each checkpoint, and how much the other complete contrasts change."""
    rows = [*zip(*(findings[name] for name in CHECKPOINTS), strict=True)]
    first, *others = [row for row in rows if row[0].complete and all(each.difference for each in row)] or [()]
    if not first:
        return "**Does the choice of the checkpoint matter?** No contrast has all its pairs yet."
    shown = ", ".join(
        f"{format_interval(each, ' BLEU')} with the {name} checkpoint"
        for name, each in zip(CHECKPOINTS, first, strict=True)
    )
    text = f"**Does the choice of the checkpoint matter?** {first[0].contrast.name}: {shown}."
    if others:
        means = {row[0].contrast.name: [each.difference.mean for each in row if each.difference] for row in others}
        change, name = max((abs(mean - averaged), name) for name, (averaged, *rest) in means.items() for mean in rest)
        text += (
            " In the other complete contrasts, the last or the best checkpoint changes the difference by at most "
            f"{change:.2f} BLEU ({name})."
        )
    return text


def verdict_label(found: Finding) -> str:
    """Return a finding's verdict as tables show it, marked if it is exploratory or if later runs can change it."""
    mark = "exploratory: " if found.seeds > 1 and found.contrast.family == EXPLORATORY else ""
    return f"{mark}{found.verdict_so_far}"
