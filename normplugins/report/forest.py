"""Draws contrasts as a forest plot: a difference with its interval for each contrast and checkpoint, or corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from normplugins.report import style
from normplugins.report.comparison import MARGIN
from normplugins.report.contrasts import CHECKPOINTS, CONFIRMATORY, CONTRASTS, EXPERIMENT, EXPLORATORY, Finding, find

LOOKS = {"averaged": ("o", "#0072B2"), "last": ("s", "#E69F00"), "best": ("D", "#767676")}
"""The marker and the colour of each checkpoint; the first is the primary one and is drawn larger."""
CORPORA = "Contrasts of test BLEU over paired seeds, by corpus"
CORPORA_TEXT = (
    "The confirmatory contrasts on each corpus with published runs, scored by the averaged checkpoint. The protocol "
    "covers Multi30k alone: on the other corpora the same rule is applied, and its verdicts are exploratory."
)


def forest(title: str, findings: Mapping[str, Sequence[Finding]], names: Sequence[str] = ()) -> Figure | None:
    """Return a forest plot; None if no contrast has a difference.

    Args:
        title: what stands above it.
        findings: for each checkpoint, one finding a row.
        names: the names of the rows; the contrasts' own by default.
    """
    first = next(iter(findings.values()))
    shown = [index for index, each in enumerate(first) if each.difference is not None]
    if not shown:
        return None
    offsets = np.linspace(-0.26, 0.26, len(findings)) if len(findings) > 1 else [0.0]
    with style.drawing():
        names = names or [_broken(each.contrast.name) for each in first]
        labels = [style.fit(names[index], 1.6, 8.5) for index in shown]
        verdicts = [style.fit(_said(first[index]), 1.05, 8) for index in shown]
        notes = _notes(first, [first[index] for index in shown])
        figure = style.new_figure(0.46 * len(shown) + 0.17 * len(notes) + 1.25)
        axis = figure.subplots()
        style.heading(figure, title, notes)
        axis.axvspan(-MARGIN, MARGIN, color="#000000", alpha=0.07, linewidth=0)
        axis.axvline(0, color=style.GREY, linewidth=1)
        for (checkpoint, every), offset in zip(findings.items(), offsets, strict=True):
            marker, colour = LOOKS[checkpoint]
            size = 6 if every is first else 4
            for row, index in enumerate(shown):
                each = every[index]
                if each.difference is None or each.interval is None:
                    continue
                dashes = (0, (2, 1)) if each.seeds == 1 else "-"
                width = 1.8 if every is first else 1.2
                axis.plot(each.interval, [row + offset] * 2, color=colour, linestyle=dashes, linewidth=width)
                axis.plot(each.difference.mean, row + offset, marker, color=colour, markersize=size)
        confirmatory = sum(first[index].contrast.family != EXPLORATORY for index in shown)
        if 0 < confirmatory < len(shown):
            axis.axhline(confirmatory - 0.5, color=style.GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        axis.set_yticks(range(len(shown)), labels)
        axis.set_ylim(len(shown) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
        axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_xlabel("difference of test BLEU, linear")
        right = axis.secondary_yaxis("right")
        right.set_yticks(range(len(shown)), verdicts, fontsize=8)
        right.tick_params(length=0)
        right.spines["right"].set_visible(False)
        handles = [Line2D([], [], marker=LOOKS[name][0], color=LOOKS[name][1], label=name) for name in findings]
        if len(handles) > 1:
            above = (0.5, 1.0)
            axis.legend(handles=handles, loc="lower center", bbox_to_anchor=above, ncols=3, frameon=False, fontsize=8.5)
    return figure


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
    return forest(CORPORA, {CHECKPOINTS[0]: [each for _, each in rows]}, [name for name, _ in rows])


def _broken(name: str) -> str:
    return name if len(name) < 20 else name.replace(" - ", "\n- ")


def _said(found: Finding) -> str:
    if found.seeds == 1:
        return "no verdict, 1 seed"
    return f"{found.verdict_so_far}, {found.seeds} seeds"


def _notes(every: Sequence[Finding], shown: Sequence[Finding]) -> list[str]:
    notes = [f"right of 0: the first of the two is better; grey: ±{MARGIN} BLEU; bars: 95 % intervals over seeds and "
             "sentences"]  # fmt: skip
    if any(each.seeds == 1 for each in shown):
        notes.append("dashed: one seed; the interval is over sentences alone and leaves out what another seed changes")
    if any(each.contrast.family == EXPLORATORY for each in shown):
        notes.append("below the dotted line: exploratory contrasts")
    if missing := len(every) - len(shown):
        notes.append(f"not run: {missing} of {len(every)} contrasts")
    return notes
