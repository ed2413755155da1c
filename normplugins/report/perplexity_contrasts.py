"""The contrasts of language models on PTB: the log of the test perplexity over paired seeds (``docs/protocol.md``)."""

import math
from pathlib import Path

import pandas as pd

from normplugins.report.answer import format_p
from normplugins.report.contrasts import CELLS, EXPLORATORY, Contrast, find
from normplugins.report.plans import Plan
from normplugins.report.table import build_table
from normplugins.utils.terminal import Table

EXPERIMENT, CHECKPOINT, BASELINE = "ptb", "best", "ln"
NOTES = (
    "The endpoint is the natural logarithm of the test perplexity per word, with the checkpoint of the lowest "
    "validation loss. A ratio below 1 means that the first norm has the lower perplexity.",
    "The interval is a 95 % interval over seeds alone, not adjusted. Holm's method adjusts p within a reading. The "
    "runs are short, and their verdicts are exploratory.",
)


def perplexity_contrasts(results: Path, found: pd.DataFrame) -> Table | None:
    """Return the table of the differences from LN that the plan has on PTB; None if no seed has both runs of a pair.

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
    rows = []
    for each in find(results, CHECKPOINT, EXPERIMENT, contrasts):
        if difference := each.difference:
            several = each.seeds > 1
            norm = each.contrast.system.partition(",")[0]
            rows.append({
                "contrast": f"{CELLS[norm]} - {CELLS[BASELINE]}, {models[each.contrast.system]}",
                "log ppl [95 %]": f"{difference.mean:+.3f}"
                + (f" [{difference.low:+.3f}, {difference.high:+.3f}]" if several else ""),
                "ratio\nof ppl": f"{math.exp(difference.mean):.3f}",
                "p (Holm)": f"{format_p(difference.p)} ({format_p(each.p_adjusted)})" if several else "",
                "seeds": f"{each.seeds} of {each.planned}",
                "verdict": f"{EXPLORATORY}: {each.verdict_so_far}" if several else each.verdict_so_far,
            })  # fmt: skip
    slug = f"{EXPERIMENT}-contrasts"
    return (
        build_table("PTB: contrasts with LN", rows, ("contrast", "verdict"), notes=NOTES, slug=slug) if rows else None
    )
