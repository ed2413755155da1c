"""The contrasts of language models on PTB: the log of the test perplexity over paired seeds (``docs/protocol.md``)."""

import math
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from normplugins.report.contrast_table import P, p_values
from normplugins.report.contrasts import CELLS, EXPLORATORY, Contrast, Finding, find
from normplugins.report.paper import CORPORA
from normplugins.report.plans import Plan
from normplugins.report.table import anchor, blank_if_usual, build_table
from normplugins.utils.terminal import Table

EXPERIMENT, CHECKPOINT, BASELINE = "ptb", "best", "ln"
TITLE = "PTB: contrasts with LN"
NOTES = (
    "The endpoint is the natural logarithm of the test perplexity per word, with the checkpoint of the lowest "
    "validation loss. A ratio below 1 means that the first norm has the lower perplexity.",
    "The interval is a 95 % interval over seeds alone, not adjusted; one seed has none. Holm's method adjusts p within "
    "a reading, and counts contrasts whose runs are not all published as p = 1. The runs are short, and their verdicts "
    "are exploratory.",
)


def perplexity_contrasts(results: Path, found: pd.DataFrame) -> Table | None:
    """Return the table of the differences from LN that the plan has on PTB; None without a pair of runs.

    Raises:
        UserError: a record is damaged, or two cells cannot be compared.
    """
    rows = [_row(model, each) for model, findings in _by_model(results, found).items() for each in findings]
    texts, details = ("contrast", "verdict"), ("diverged",)
    shown = blank_if_usual(rows, "diverged", "0 and 0")
    return build_table(TITLE, shown, texts, details, NOTES, f"{EXPERIMENT}-contrasts").folded() if rows else None


def summary(results: Path, found: pd.DataFrame, norms: Collection[str] = tuple(CELLS)) -> str:
    """Return in sentences how the perplexity of each of these norms differs from LN's; "" without a pair of runs.

    Raises:
        UserError: a record is damaged, or two cells cannot be compared.
    """
    readings = []
    for model, findings in _by_model(results, found).items():
        shown = [each for each in findings if _norm(each) in norms and each.difference]
        if shown:
            readings.append(f"With `{model}`: {'; '.join(map(_change, shown))}.")
    if not readings:
        return ""
    made = found.loc[(found["experiment"] == EXPERIMENT) & (found["budget"] != ""), "updates"].max()
    return (
        f"On PTB, after {made:,.0f} updates (the paper trains for {CORPORA[EXPERIMENT].ends_at:,}), the test "
        f"perplexity differs from LN's as follows. {' '.join(readings)} The paper reports a lower one for PN. "
        f"These verdicts are exploratory, and longer training can change the order ([table](README.md{anchor(TITLE)}))."
    )


def _change(found: Finding) -> str:
    """Return a difference of logarithms as a change in percent, with its interval, seeds and verdict."""
    difference = found.difference
    assert difference is not None
    mean, low, high = (
        f"{100 * math.expm1(value):+.1f}" for value in (difference.mean, difference.low, difference.high)
    )
    several = f" [{low}, {high}], {found.seeds} seeds" if found.seeds > 1 else ""
    return f"{CELLS[_norm(found)]} {mean} %{several}, {found.verdict_so_far}"


def _by_model(results: Path, found: pd.DataFrame) -> dict[str, list[Finding]]:
    """Return what the records say about each contrast of the plan with a pair or a run that diverged, by the model."""
    cells = [cell for experiment, cell in Plan.named(EXPERIMENT).cells if experiment == EXPERIMENT]
    contrasts = []
    for cell in cells:
        norm, *settings = cell.split(",")
        baseline = ",".join([BASELINE, *settings])
        if norm != BASELINE:
            contrasts.append(Contrast(cell, baseline, family=baseline))
    models = {str(run.variant): str(run.model) for run in found.itertuples() if run.experiment == EXPERIMENT}
    findings: dict[str, list[Finding]] = {}
    for each in find(results, CHECKPOINT, EXPERIMENT, contrasts):
        if each.difference or any(each.diverged):
            model = models.get(each.contrast.system) or models.get(each.contrast.baseline, "")
            findings.setdefault(model, []).append(each)
    return findings


def _norm(found: Finding) -> str:
    return found.contrast.system.partition(",")[0]


def _row(model: str, found: Finding) -> dict[str, str]:
    difference = found.difference
    several = difference is not None and found.seeds > 1
    return {
        "contrast": f"{CELLS[_norm(found)]} - {CELLS[BASELINE]}, {model}",
        "log ppl [95 %]": (f"{difference.mean:+.3f}" if difference else "")
        + (f" [{difference.low:+.3f}, {difference.high:+.3f}]" if difference and several else ""),
        "ratio\nof ppl": f"{math.exp(difference.mean):.3f}" if difference else "",
        P: p_values(found),
        "seeds": f"{found.seeds} of {found.planned}",
        "diverged": " and ".join(map(str, found.diverged)),
        "verdict": f"{EXPLORATORY}: {found.verdict_so_far}" if several else found.verdict_so_far,
    }
