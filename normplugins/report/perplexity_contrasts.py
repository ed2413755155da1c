"""The contrasts of language models on PTB: the log of the test perplexity over paired seeds (``docs/protocol.md``)."""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from normplugins.report.contrast_table import P, p_values
from normplugins.report.contrasts import CELLS, EXPLORATORY, Contrast, Finding, find
from normplugins.report.plans import Plan
from normplugins.report.table import build_table
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
    cells = [cell for experiment, cell in Plan.named(EXPERIMENT).cells if experiment == EXPERIMENT]
    contrasts = []
    for cell in cells:
        norm, *settings = cell.split(",")
        baseline = ",".join([BASELINE, *settings])
        if norm != BASELINE:
            contrasts.append(Contrast(cell, baseline, family=baseline))
    models = {str(run.variant): str(run.model) for run in found.itertuples() if run.experiment == EXPERIMENT}
    rows = [
        _row(each, models)
        for each in find(results, CHECKPOINT, EXPERIMENT, contrasts)
        if each.difference or any(each.diverged)
    ]
    texts, details = ("contrast", "verdict"), ("diverged",)
    return build_table(TITLE, rows, texts, details, NOTES, f"{EXPERIMENT}-contrasts").folded() if rows else None


def _row(found: Finding, models: Mapping[str, str]) -> dict[str, str]:
    norm, difference = found.contrast.system.partition(",")[0], found.difference
    model = models.get(found.contrast.system) or models.get(found.contrast.baseline, "")
    several = difference is not None and found.seeds > 1
    return {
        "contrast": f"{CELLS[norm]} - {CELLS[BASELINE]}, {model}",
        "log ppl [95 %]": (f"{difference.mean:+.3f}" if difference else "")
        + (f" [{difference.low:+.3f}, {difference.high:+.3f}]" if difference and several else ""),
        "ratio\nof ppl": f"{math.exp(difference.mean):.3f}" if difference else "",
        P: p_values(found),
        "seeds": f"{found.seeds} of {found.planned}",
        "diverged": " and ".join(map(str, found.diverged)),
        "verdict": f"{EXPLORATORY}: {found.verdict_so_far}" if several else found.verdict_so_far,
    }
