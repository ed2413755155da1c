"""Draws the confirmatory contrasts of the protocol on every corpus that has published runs of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from normplugins.report.contrasts import CHECKPOINTS, CONFIRMATORY, CONTRASTS, EXPERIMENT, Finding, find
from normplugins.report.forest import forest

TITLE = "Contrasts of test BLEU over paired seeds, by corpus"
TEXT = (
    "The confirmatory contrasts on each corpus with published runs, scored by the averaged checkpoint. The protocol "
    "covers Multi30k alone: on the other corpora the same rule is applied, and its verdicts are exploratory."
)


def over_corpora(results: Path, found: pd.DataFrame, primary: Sequence[Finding]) -> Figure | None:
    """Return a forest plot with a row for each contrast and corpus; None unless two corpora have runs.

    Args:
        results: the folder of the records.
        found: the records, as :func:`normplugins.report.records.read_results` returns them.
        primary: the findings of Multi30k.

    Raises:
        UserError: a record or its translations are damaged, or two cells cannot be compared.
    """
    contrasts = [each for each in CONTRASTS if each.family == CONFIRMATORY]
    others = [name for name in found.loc[found["metric"] == "bleu", "experiment"].unique() if name != EXPERIMENT]
    by_corpus = {EXPERIMENT: [each for each in primary if each.contrast in contrasts]}
    by_corpus |= {name: find(results, experiment=name, contrasts=contrasts) for name in others}
    shown = {name: each for name, each in by_corpus.items() if any(one.difference for one in each)}
    if len(shown) < 2:
        return None
    rows = [(f"{row[0].contrast.name}, {name}", each)
            for row in zip(*shown.values(), strict=True)
            for name, each in zip(shown, row, strict=True)]  # fmt: skip
    return forest(TITLE, {CHECKPOINTS[0]: [each for _, each in rows]}, [name for name, _ in rows])
