"""The paper's figures, drawn from the records: their names, titles, captions and order."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from normplugins.norms import NormConfig
from normplugins.report import probe_table, style
from normplugins.report.contrasts import CELLS
from normplugins.report.embedding_figure import distance_from_ln, spectrum
from normplugins.report.probe_figures import EVERY_NORM, FIRST_NORM, discrepancy, every_norm, first_norm, pn_backward
from normplugins.report.probe_table import EARLY, LAST_EPOCHS, WARMUP
from normplugins.report.table import build_table, markdown

CONFOUNDED = (
    "The statistics of a transformer and of a ResNet20 cover different numbers of values, and those of fewer values "
    "fluctuate more."
)
MOMENTUM = {norm: NormConfig(norm).resolve().momentum for norm in ("bn", "bn_released")}
TEXTS = {
    "fluctuation": (
        "First BatchNorm: batch statistics against running ones",
        "The statistics of a batch, with the subscript B, are compared with the running statistics before that batch. "
        "The paper divides the Euclidean norm of their difference by the number d of channels. The relative form "
        "divides it by the norm of the running standard deviations; it is the train-inference discrepancy. Before "
        f"update {EARLY}, the running statistics still contain a part of their initial values. {CONFOUNDED}",
    ),
    "backward-fluctuation": (
        "First BatchNorm: backward pass through statistics",
        "g is the gradient of the loss with respect to the norm's output, and the means over the B tokens of a batch "
        "are g_μ = mean(γ g) and g_σ² = mean(γ g x̂). The paper divides their Euclidean norm by the number d of "
        "channels. The relative form divides it by the root mean square over tokens of the norm of g. If the "
        "gradients of the tokens are independent and γ is 1, the relative form is about 1/√B: 0.022 for 2,000 tokens. "
        f"{CONFOUNDED}",
    ),
    "fluctuation-layers": (
        "All encoder norms: batch statistics against running ones",
        "The paper's measure at every norm of the encoder: the distance of variances for BN, and of quadratic means ψ² "
        "for PN-V and PN. It grows with the scale of a norm's input: compare norms by the relative distance below. "
        f"The decoders of all these models have LN; pn and bn_released have group scaling. "
        f"The momentum of bn_released is {MOMENTUM['bn_released']} and that of bn {MOMENTUM['bn']}: they differ in the "
        "number of batches that their running statistics average, and not in group scaling alone.",
    ),
    "fluctuation-layers-relative": (
        "All encoder norms: batch statistics, relative",
        "The relative distance of standard deviations for BN, and of the roots ψ of the quadratic means for PN-V and "
        "PN.",
    ),
    "backward-fluctuation-layers": (
        "All encoder norms: backward pass through statistics",
        "‖Λ_B‖, divided by the number of channels, at every norm of the encoder, with Λ_B = mean(γ g x̂), which is "
        "g_σ² for BN. PN's mean counts padding, as its backward pass does. bn_released is left out, because "
        "version 0.2.0 recorded this number of bn_released on another scale (times positions / tokens).",
    ),
    "backward-fluctuation-layers-relative": (
        "All encoder norms: backward pass, relative",
        "The same, divided by the root mean square over tokens of the norm of g.",
    ),
    "pn-backward": (
        "PN's backward pass with and without group scaling",
        "In its backward pass, PN replaces Λ_B = mean(γ g x̂) with the running average ν. x is the norm's input and y "
        "its output. Lines are medians over the encoder's norms and the seeds; bands reach from the lowest to the "
        "highest value.",
    ),
    "discrepancy": (
        "Train-inference discrepancy and the gap in validation loss",
        "The discrepancy is the distance of a batch's statistics from the running ones, relative to the running "
        "standard deviations, or to ψ for PN-V and PN. The gap is the validation loss with running statistics, minus "
        f"the loss in training mode. Both are means from update {WARMUP:,} on. A point is a norm of the encoder; a "
        "line joins the norms of one run, which share its gap. PN uses running statistics in training mode too, so "
        "its gap is 0 up to rounding: the lowest panel shows its discrepancy alone, a row for each cell. The table has "
        "the validation loss minus LN's with the same seeds, in bits: with running statistics, by which the model is "
        f"judged, and with the statistics of each batch. It is the mean of the last {LAST_EPOCHS} epochs; the "
        "lowest and the highest seed are in parentheses. All losses are label-smoothed.",
    ),
    "embedding": (
        "Singular values of the embedding",
        "Singular values of the matrix of token embeddings, which encoder, decoder and output layer share, of the "
        "averaged checkpoint. Above: relative to the largest value. Below: the same, divided by the mean over the "
        "seeds of LN. Lines are means over seeds; each grey line is one seed of LN.",
    ),
}
"""The title and the caption of each figure by its name, in the order of the page."""


LOSSES = {"loss": "running statistics", "train_mode_loss": "batch statistics"}
"""The columns of the table of validation losses."""


class Drawing(NamedTuple):
    """A figure of the page, and a table below it; ``figure`` is None if no record has the numbers that it needs."""

    name: str
    title: str
    text: str
    figure: Figure | None
    table: str = ""


def paper_figures(results: Path, probe: pd.DataFrame) -> Iterator[Drawing]:
    """Yield the figures in the order of the page.

    Raises:
        UserError: a table is damaged.
    """
    vision = probe_table.vision_table(results)
    found = {name: first_norm(probe, vision, name) for name in FIRST_NORM}
    found |= {name: every_norm(probe, name) for name in EVERY_NORM}
    found |= {"pn-backward": pn_backward(probe), "discrepancy": discrepancy(probe), "embedding": spectrum(results)}
    for name, (title, text) in TEXTS.items():
        drawn = found[name]
        if drawn is None:
            yield Drawing(name, title, "not run: no published run of Multi30k has these numbers.", None)
            continue
        figure, shown = drawn
        with style.drawing():
            style.heading(figure, title)
        span = f", updates {probe_table.FIRST_SHOWN} to {vision['update'].max():,}" if len(vision) else ""
        more = f" {probe_table.vision_shown(results)}{span}." if name in FIRST_NORM else ""
        more += _medians(shown) if name in EVERY_NORM else f" {distance_from_ln(shown)}" if name == "embedding" else ""
        below = _losses(probe) if name == "discrepancy" else ""
        yield Drawing(name, title, f"{text} Runs: {probe_table.runs_shown(shown)}.{more}", figure, below)


def _medians(shown: pd.DataFrame) -> str:
    """Return the median of each cell over norms, seeds, and updates from ``WARMUP`` on."""
    settled = shown[shown["update"] >= WARMUP].groupby("cell", sort=False)["value"].median()
    values = ", ".join(f"{cell} {value:.2g}" for cell, value in settled.items())
    return f" Medians over all norms from update {WARMUP:,} on: {values}." if values else ""


def _losses(probe: pd.DataFrame) -> str:
    """Return the validation losses minus LN's as a Markdown table; "" without any."""
    losses = probe_table.losses_minus_ln(probe).rename(columns=LOSSES)
    rows = [
        {"cell": cell, "seeds": str(len(losses.loc[cell])),
         **{name: probe_table.mean_and_range(losses.loc[cell][name]) for name in LOSSES.values()}}
        for cell in CELLS if cell in losses.index
    ]  # fmt: skip
    return markdown(build_table("", rows, texts=["cell"])) if rows else ""
