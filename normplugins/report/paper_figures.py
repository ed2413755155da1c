"""The paper's figures, drawn from the records: their names, captions and order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from normplugins.report.backward_figure import backward
from normplugins.report.discrepancy_figure import discrepancy
from normplugins.report.embedding_figure import spectrum
from normplugins.report.fluctuation_figure import EVERY_NORM, FIRST_NORM, every_norm, first_norm
from normplugins.report.probe_table import SETTLED, probe_table, runs_shown, vision_table

FORWARD = (
    "The statistics of one batch of about 2,000 tokens, with the subscript B, are compared with the running statistics "
    "before that batch. The paper divides the Euclidean norm of their difference by the number d of channels; the "
    "relative form divides it by the norm of the running statistics and is the train-inference discrepancy."
)
BACKWARD = (
    "g is the gradient of the loss with respect to the norm's output, and the means over the tokens of a batch are g_μ "
    "= mean(γ g) and g_σ² = mean(γ g x̂). The paper divides their Euclidean norm by the number d of channels; the "
    "relative form divides it by the root mean square over tokens of the norm of g, and is about 1/√B, which is 0.02 "
    "here, if the gradients of the B tokens are independent of each other."
)
TEXTS = (
    FORWARD,
    BACKWARD,
    "The same distances at every norm of the encoder. BN compares variances or deviations, PN-V and PN quadratic means "
    "or ψ. Lines are means over seeds, dashed for norms with group scaling. The decoders of all these models have LN.",
    "The same norms of Λ_B = mean(γ g x̂), which is called g_σ² for BN, at every norm of the encoder. Lines are means "
    "over seeds, dashed for norms with group scaling.",
)


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
    beside = f" ResNet20 on CIFAR-10: {runs_shown(vision)}." if len(vision) else " ResNet20 on CIFAR-10: not run."
    first, every = (("fluctuation", "backward-fluctuation"), ("fluctuation-layers", "backward-fluctuation-layers"))
    drawn = [
        (first[n], title, first_norm(table, vision, title), TEXTS[n], beside) for n, title in enumerate(FIRST_NORM)
    ]
    drawn += [(every[n], title, every_norm(table, title), TEXTS[n + 2], "") for n, title in enumerate(EVERY_NORM)]
    text = (
        "ν is the running mean with which PN replaces Λ_B = mean(γ g x̂) in its backward pass; x and y are the norm's "
        "input and output. Lines are medians and bands reach from the lowest to the highest value, over the norms of "
        "the encoder and the seeds."
    )
    drawn.append(("pn-backward", "PN's backward pass with and without group scaling", backward(table), text, ""))
    text = (
        "The discrepancy is the distance of a batch's statistics from the running ones, relative to the running ones; "
        "for PN-V and PN it is that of ψ. The gap is the validation loss with running statistics, less the loss with "
        f"the statistics of each validation batch. Both are means from update {SETTLED:,} on. A point is a norm of the "
        "encoder, and a line joins the norms of a run, which have the gap in common. PN divides by its running "
        "statistics in training too, so that its gap is 0 by definition."
    )
    title = "Train-inference discrepancy and the gap in validation loss"
    drawn.append(("discrepancy", title, discrepancy(table), text, ""))
    text = (
        "Singular values of the matrix of token embeddings, which encoder, decoder and output share, in the checkpoint "
        "that is the mean of the last epochs, relative to the largest value; below, divided by the mean of LN. Lines "
        "are means over seeds, and the grey lines are the seeds of LN."
    )
    drawn.append(("embedding", "Singular values of the embedding", spectrum(results), text, ""))
    for name, title, found, text, more in drawn:
        if found is None:
            yield Drawing(name, title, "not run: no published run of Multi30k has these numbers.", None)
        else:
            yield Drawing(name, title, f"{text} Runs: {found[1]}.{more}", found[0])
