"""The paper's figures, drawn from the records; ``docs/figures.md`` shows and explains them."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from normplugins.report import probe_table, style
from normplugins.report.embedding_figure import spectrum
from normplugins.report.probe_figures import EVERY_NORM, FIRST_NORM, discrepancy, every_norm, first_norm, pn_backward

TITLES = {
    "fluctuation": "First BatchNorm: batch statistics against running ones",
    "backward-fluctuation": "First BatchNorm: backward pass through statistics",
    "fluctuation-layers": "All encoder norms: batch statistics against running ones",
    "fluctuation-layers-relative": "All encoder norms: batch statistics, relative",
    "backward-fluctuation-layers": "All encoder norms: backward pass through statistics",
    "backward-fluctuation-layers-relative": "All encoder norms: backward pass, relative",
    "pn-backward": "PN's backward pass with and without group scaling",
    "discrepancy": "Train-inference discrepancy and the gap in validation loss",
    "embedding": "Singular values of the embedding",
}
"""The title of each figure by its name, in the order of ``docs/figures.md``."""


def paper_figures(results: Path, probe: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of each title; a figure is left out if no record has the numbers that it needs.

    Raises:
        UserError: a table is damaged.
    """
    vision = probe_table.vision_table(results)
    drawn = {name: first_norm(probe, vision, name) for name in FIRST_NORM}
    drawn |= {name: every_norm(probe, name) for name in EVERY_NORM}
    drawn |= {"pn-backward": pn_backward(probe), "discrepancy": discrepancy(probe), "embedding": spectrum(results)}
    for name, found in drawn.items():
        if found is None:
            continue
        figure, shown = found
        notes = [f"runs: {probe_table.runs_shown(shown)}"]
        if name in FIRST_NORM:
            span = f", updates {probe_table.FIRST_SHOWN} to {vision['update'].max():,}" if len(vision) else ""
            notes.append(f"{probe_table.vision_shown(results)}{span}")
        with style.drawing():
            style.heading(figure, TITLES[name], notes)
        yield name, figure
