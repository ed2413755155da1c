"""The contrasts of ``docs/protocol.md`` as a table and as CSV."""

import pandas as pd

from normplugins.report import answer
from normplugins.report.answer import Findings
from normplugins.report.cells import SPREAD_SEEDS
from normplugins.report.contrasts import CHECKPOINTS, MARGIN, UNDECIDED, Finding, format_interval
from normplugins.report.processors import describe_mixed
from normplugins.report.table import blank_if_usual, build_table
from normplugins.utils.terminal import Table

POWER, NO_PENALTY = f"seeds to\nfind {MARGIN}", "without\npenalty"
P = "p (Holm)"
TEXTS, DETAILS = ("contrast", "verdict"), (P, NO_PENALTY, POWER, "diverged", "stopped\nearly")
"""Columns of the table of contrasts."""


def contrast_table(findings: Findings, found: pd.DataFrame) -> Table:
    """Return the table of all contrasts."""
    runs = answer.planned_cells(found).drop_duplicates(["variant", "seed"])
    ended = runs[runs["diverged"] == ""]
    scores = answer.scores_on_test(found)
    rows = []
    for first, *others in zip(*(findings[name] for name in CHECKPOINTS), strict=True):
        needed = ""
        if first.verdict == UNDECIDED and first.seeds >= SPREAD_SEEDS:
            needed = "none" if first.seeds_needed is None else str(first.seeds_needed)
        rows.append({
            "contrast": first.contrast.name,
            "averaged [95 %]": format_interval(first),
            P: p_values(first),
            **{name: f"{each.difference.mean:+.2f}" if each.difference else ""
               for name, each in zip(CHECKPOINTS[1:], others, strict=True)},
            NO_PENALTY: answer.without_penalty(first, scores),
            "seeds": f"{first.seeds} of {first.planned}",
            "verdict": answer.verdict_label(first),
            POWER: needed,
            "diverged": " and ".join(map(str, first.diverged)),
            "stopped\nearly": str(first.stopped_early),
        })  # fmt: skip
    notes = [
        "A difference is the test BLEU of the first norm minus that of the second, with the seeds that both have. "
        f"*Equivalent*: the whole interval lies within ±{MARGIN} BLEU. Verdicts rest on the averaged checkpoints; "
        "[contrasts.csv](contrasts.csv) also has the intervals of last and best checkpoints, and those of the "
        "hierarchical bootstrap.",
        "*Without penalty*: the mean difference after each score is divided by its brevity penalty, so that short "
        "translations are not penalized.",
        "An averaged checkpoint also has averaged running statistics ([docs/averaging.md](../docs/averaging.md)).",
        f"Of {len(runs)} runs, {len(runs) - len(ended)} diverged and {(ended['stopped_by'] == 'patience').sum()} "
        "stopped early.",
        *_last_checkpoint(scores),
        describe_mixed(findings[CHECKPOINTS[0]], ended),
    ]
    if any(row[POWER] for row in rows):
        notes.append(
            f"*Seeds to find {MARGIN}*: the number of seeds with which an unadjusted test finds a true difference of "
            f"{MARGIN} BLEU with a power of 80 %; an adjusted test needs more. The number does not say when the "
            f"measured difference will be decided. With {SPREAD_SEEDS} seeds it is a rough estimate: the variance "
            "between them may be several times too large or too small."
        )
    if any(each.seeds == 1 for each in findings[CHECKPOINTS[0]]):
        notes.append("With one seed, the interval is over sentences alone and leaves out the spread between seeds.")
    shown = blank_if_usual(blank_if_usual(rows, "diverged", "0 and 0"), "stopped\nearly", "0")
    return build_table("Contrasts", shown, TEXTS, DETAILS, notes, slug="contrasts").folded()


def p_values(found: Finding) -> str:
    """Return the p-value of a finding, and in parentheses the adjusted one; "" with fewer than two pairs."""
    if found.difference is None or found.seeds < 2:
        return ""
    return f"{answer.format_p(found.difference.p)} ({answer.format_p(found.p_adjusted)})"


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


def _last_checkpoint(scores: pd.DataFrame) -> list[str]:
    """Return notes: how often the last checkpoint is also the best, and how averaging changes the output's length."""
    runs = scores.pivot(index=["variant", "seed"], columns="checkpoint", values=["value", "brevity"])
    if not {*CHECKPOINTS} <= {*scores["checkpoint"]}:
        return []
    runs = runs.dropna()
    averaged, last = (runs["brevity", name] for name in ("averaged", "last"))
    curves = scores.drop_duplicates(["variant", "seed"]).set_index(["variant", "seed"]).loc[runs.index, "valid_curve"]
    same = sum(bool(curve) and curve[-1][1] == min(loss for _, loss in curve) for curve in curves)
    return [
        f"In {same} of {len(runs)} runs, the last epoch has the lowest validation loss, so *last* and *best* are "
        "the same checkpoint. These models were still improving, and longer training could change the differences.",
        f"Averaging shortens the output in {(averaged < last).sum()} of {len(runs)} runs: the mean brevity penalty is "
        f"{averaged.mean():.3f} for averaged checkpoints and {last.mean():.3f} for last ones.",
    ]
