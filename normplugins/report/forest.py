"""Draws contrasts as a forest plot: a difference with its interval for each contrast, or contrast and corpus."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normplugins.report import style
from normplugins.report.contrasts import CONFIRMATORY, CONTRASTS, EXPERIMENT, EXPLORATORY, MARGIN, Finding, find

CONTRASTS_TITLE = "multi30k: contrasts of test BLEU over paired seeds"
CLIP = 4.0
"""The axis ends here (BLEU) if only intervals reach further; intervals over two seeds can be very wide."""
COLOR = "#0072B2"
CORPORA = "Contrasts of test BLEU over paired seeds, by corpus"
CORPORA_TEXT = (
    "The confirmatory contrasts on each corpus with published runs, scored by the averaged checkpoint. The protocol "
    "covers Multi30k alone: on the other corpora the same rule is applied, and its verdicts are exploratory."
)


def forest(title: str, findings: Sequence[Finding], names: Sequence[str] = ()) -> Figure | None:
    """Return a forest plot of the averaged checkpoint, a finding in each row; None if no contrast has a difference.

    ``names`` are those of the rows; by default, each row has the name of its contrast.
    """
    names = names or [_broken(each.contrast.name) for each in findings]
    rows = [(each, name, each.difference.mean, each.difference.interval)
            for each, name in zip(findings, names, strict=True) if each.difference]  # fmt: skip
    if not rows:
        return None
    shown = [each for each, *_ in rows]
    furthest = max(abs(bound) for *_, interval in rows for bound in interval)
    reach = min(1.05 * furthest, max(CLIP, *(1.5 * abs(mean) for _, _, mean, _ in rows)))
    with style.drawing():
        labels = [style.fit(name, 1.6, 8.5) for _, name, _, _ in rows]
        verdicts = [style.fit(_said(each), 1.05, 8) for each in shown]
        confirmatory = sum(each.contrast.family != EXPLORATORY for each in shown)
        notes = _notes(findings, shown, furthest > reach)
        figure = style.new_figure(0.38 * len(shown) + 0.17 * len(notes) + 1.25)
        axis = figure.subplots()
        style.heading(figure, title, notes)
        axis.axvspan(-MARGIN, MARGIN, color="#000000", alpha=0.07, linewidth=0)
        axis.axvline(0, color=style.GREY, linewidth=1)
        for row, (each, _, mean, interval) in enumerate(rows):
            low, high = np.clip(interval, -reach, reach)
            style.dot(axis, row, mean, (low, high), COLOR, each.seeds > 1)
            if each.difference and each.seeds > 1:
                by_seed = np.clip(each.difference.by_seed, -reach, reach)
                axis.plot(by_seed, [row] * len(by_seed), "|", color="#000000", markersize=7)
            for bound, arrow in zip(interval, "<>", strict=True):
                if abs(bound) > reach:
                    axis.plot(math.copysign(reach, bound), row, arrow, color=COLOR, clip_on=False)
        axis.set_xlim(-reach, reach)
        if 0 < confirmatory < len(shown):
            axis.axhline(confirmatory - 0.5, color=style.GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        axis.set_yticks(range(len(shown)), labels)
        axis.set_ylim(len(shown) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
        axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_xlabel("difference of test BLEU, averaged checkpoint, linear")
        right = axis.secondary_yaxis("right")
        right.set_yticks(range(len(shown)), verdicts, fontsize=8)
        right.tick_params(length=0)
        right.spines["right"].set_visible(False)
    return figure


def over_corpora(results: Path, found: pd.DataFrame, primary: Sequence[Finding]) -> Figure | None:
    """Return a forest plot with a row for each corpus and contrast; None unless two corpora have runs.

    The contrasts of corpora other than Multi30k are exploratory, and stand below those of Multi30k. A corpus whose runs
    were trained on different texts is left out.

    Raises:
        UserError: a record or its translations are damaged, or two cells cannot be compared.
    """
    contrasts = [each for each in CONTRASTS if each.family == CONFIRMATORY]
    elsewhere = [replace(each, family=EXPLORATORY) for each in contrasts]
    scored = found[(found["metric"] == "bleu") & (found["experiment"] != EXPERIMENT)]
    texts = scored.drop_duplicates(["experiment", "note", "train_size"]).groupby("experiment", sort=False).size()
    others = texts.index[texts == 1]  # a contrast of runs that were trained on different texts is not the norm's
    by_corpus = {EXPERIMENT: [each for each in primary if each.contrast in contrasts]}
    by_corpus |= {name: find(results, experiment=name, contrasts=elsewhere) for name in others}
    shown = {name: each for name, each in by_corpus.items() if any(one.difference for one in each)}
    if len(shown) < 2:
        return None
    rows = [(f"{each.contrast.name}, {name}", each) for name, findings in shown.items() for each in findings]
    return forest(CORPORA, [each for _, each in rows], [name for name, _ in rows])


def _broken(name: str) -> str:
    return name if len(name) < 20 else name.replace(" - ", "\n- ")


def _said(found: Finding) -> str:
    if found.seeds == 1:
        return "no verdict\n1 seed"
    return f"{found.verdict_so_far}\n{found.seeds} seeds"


def _notes(every: Sequence[Finding], shown: Sequence[Finding], clipped: bool) -> list[str]:
    notes = [f"right of 0: the first of the two is better; gray: ±{MARGIN} BLEU"]
    if any(each.seeds > 1 for each in shown):
        notes.append("━●━ several seeds: 95 % intervals over seeds and sentences, not adjusted; | each seed")
    if any(each.seeds == 1 for each in shown):
        notes.append("─○─ one seed: 95 % intervals over sentences only, not over seeds")
    if clipped:
        notes.append("◀ ▶ the interval reaches beyond the axis")
    exploratory = sum(each.contrast.family == EXPLORATORY for each in shown)
    if exploratory:
        notes.append(f"{'below the dotted line: ' if exploratory < len(shown) else ''}exploratory contrasts")
    if missing := len(every) - len(shown):
        notes.append(f"not run: {missing} of {len(every)} contrasts")
    return notes
