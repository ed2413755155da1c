"""The paper's figures, drawn from the records: their names, titles, captions and order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from normplugins.report.discrepancy_figure import discrepancy
from normplugins.report.embedding_figure import spectrum
from normplugins.report.probe_figures import EVERY_NORM, FIRST_NORM, every_norm, first_norm, pn_backward
from normplugins.report.probe_table import FROM, SETTLED, probe_table, vision_shown, vision_table

BANDS = "bands reach from the lowest to the highest value"
TEXTS = {
    "fluctuation": (
        "First BatchNorm: batch statistics against running ones",
        "The statistics of one batch of about 2,000 tokens, with the subscript B, are compared with the running "
        "statistics before that batch. The paper divides the Euclidean norm of their difference by the number d of "
        "channels; the relative form divides it by the norm of the running deviations and is the train-inference "
        "discrepancy. With a momentum of 0.1, running statistics forget their initial values within about 50 updates. "
        f"Lines are medians over seeds, and {BANDS}.",
    ),
    "backward-fluctuation": (
        "First BatchNorm: backward pass through statistics",
        "g is the gradient of the loss with respect to the norm's output, and the means over the tokens of a batch are "
        "g_μ = mean(γ g) and g_σ² = mean(γ g x̂). The paper divides their Euclidean norm by the number d of channels; "
        "the relative form divides it by the root mean square over tokens of the norm of g, and is about 1/√B, which "
        "is 0.02 for the transformer, if the gradients of the B tokens are independent of each other. Lines are "
        f"medians over seeds, and {BANDS}.",
    ),
    "fluctuation-layers": (
        "All encoder norms: batch statistics against running ones",
        "The same distances at every norm of the encoder. BN compares variances or deviations, PN-V and PN quadratic "
        f"means or ψ. Lines are medians over seeds, dashed for norms with group scaling, and {BANDS}. The decoders of "
        "all these models have LN.",
    ),
    "backward-fluctuation-layers": (
        "All encoder norms: backward pass through statistics",
        "The same norms of Λ_B = mean(γ g x̂), which is called g_σ² for BN, at every norm of the encoder. Lines are "
        f"medians over seeds, dashed for norms with group scaling, and {BANDS}. In records of version 0.2.0, the "
        "values of bn_released are too large by the factor positions/tokens, because of padding.",
    ),
    "pn-backward": (
        "PN's backward pass with and without group scaling",
        "ν is the running average with which PN replaces Λ_B = mean(γ g x̂) in its backward pass; x and y are the "
        f"norm's input and output. Lines are medians over the norms of the encoder and the seeds, and {BANDS}.",
    ),
    "discrepancy": (
        "Train-inference discrepancy and the gap in validation loss",
        "The discrepancy is the distance of a batch's statistics from the running ones, relative to the running ones; "
        "for PN-V and PN it is that of ψ. The gap is the validation loss with running statistics, less the loss with "
        f"the statistics of each validation batch. Both are means from update {SETTLED:,} on. A point is a norm of the "
        "encoder, and a line joins the norms of a run, which have the gap in common. PN divides by its running "
        "statistics in training too, so its gap is 0 by definition.",
    ),
    "embedding": (
        "Singular values of the embedding",
        "Singular values of the matrix of token embeddings, which encoder, decoder and output share, in the checkpoint "
        "that is the mean of the last epochs, relative to the largest value; below, divided by the mean of LN. Lines "
        "are means over seeds, and the grey lines are the seeds of LN.",
    ),
}
"""The title and the caption of each figure by its name, in the order of the page."""


class Drawing(NamedTuple):
    """A figure of the page; without the numbers that it needs, ``figure`` is None."""

    name: str
    title: str
    text: str
    figure: Figure | None


def paper_figures(results: Path) -> Iterator[Drawing]:
    """Yield the figures in the order of the page.

    Args:
        results: the folder of the results.

    Raises:
        UserError: a record or a table is damaged.
    """
    table, vision = probe_table(results), vision_table(results)
    for name, (title, text) in TEXTS.items():
        if name in FIRST_NORM:
            found = first_norm(table, vision, name, title)
        elif name in EVERY_NORM:
            found = every_norm(table, name, title)
        elif name == "embedding":
            found = spectrum(results, title)
        else:
            found = {"pn-backward": pn_backward, "discrepancy": discrepancy}[name](table, title)
        if found is None:
            yield Drawing(name, title, "not run: no published run of Multi30k has these numbers.", None)
        else:
            span = f", updates {FROM} to {vision['update'].max():,}" if len(vision) else ""
            more = f" {vision_shown(results)}{span}." if name in FIRST_NORM else ""
            yield Drawing(name, title, f"{text} Runs: {found[1]}.{more}", found[0])
