"""The evidence by which claims are judged, and the verdicts on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from normplugins.report import probe_table
from normplugins.report.contrasts import EXPERIMENT, Contrast, Finding, find
from normplugins.report.plans import Plan
from normplugins.runs.inventory import published_path

HOLDS, FAILS, OPEN = "holds", "does not hold", "open"
"""The verdicts on a claim, besides ``UNDECIDED`` and ``NOT_RUN``; measurements cannot decide an open one."""


@dataclass(frozen=True)
class Evidence:
    """The evidence by which claims are judged.

    ``findings`` are the primary ones, by the name of the contrast. ``sensitive`` has the names of those whose verdict
    would change if the runs were corrected for their processors (amendment 22 of the protocol).
    """

    results: Path
    findings: Mapping[str, Finding]
    probe: pd.DataFrame
    found: pd.DataFrame
    sensitive: Set[str] = frozenset()

    def seeds(self, cell: str, diverged: bool = False) -> list[int]:
        """Return the seeds of the runs of a cell of Multi30k that ended, or of those that diverged."""
        found = self.found[(self.found["experiment"] == EXPERIMENT) & (self.found["variant"] == cell)]
        return sorted(found.loc[(found["diverged"] != "") == diverged, "seed"].unique())

    def links(self, *cells: str) -> str:
        """Return Markdown links to the pages of these cells' runs."""
        return _links({cell: self.seeds(cell) for cell in cells})

    def ended(self, plan: str, *cells: str) -> bool:
        """Whether no run of a plan, or of these cells of it, is left: each is published or has diverged."""
        left = Plan.named(plan).progress(self.results).left
        return not any(not cells or cell in cells for _, cell in left)

    def probed(self, cell: str, number: str, begin: int = 0, end: float = math.inf) -> pd.Series[float]:
        """Return a quantity of the encoder norms or the model, at updates in this range (NaN: not finite).

        The result is indexed by seed and layer.
        """
        found = self.probe[(self.probe["cell"] == cell) & (self.probe["quantity"] == number)]
        measured = found["layer"].str.startswith("encoder.") | (found["layer"] == probe_table.VALIDATION)
        found = found[found["update"].between(begin, end) & measured]
        return found.set_index(["seed", "layer"])["value"].astype(float)

    def compare(self, plan: str, pairs: Iterable[tuple[str, str]]) -> list[Finding]:
        """Return the findings of pairs of cells (the system, then the baseline) with the seeds of a plan."""
        contrasts = [Contrast(system, baseline) for system, baseline in pairs]
        return find(self.results, contrasts=contrasts, plan=Plan.named(plan))


def links_of_pairs(*findings: Finding) -> str:
    """Return Markdown links to the pages of the runs that these findings compare: the seeds that both sides have."""
    used: dict[str, set[int]] = {}
    for found in findings:
        for cell in (found.contrast.system, found.contrast.baseline):
            used.setdefault(cell, set()).update(found.difference.seeds if found.difference else ())
    return _links(used)


def _links(runs: Mapping[str, Iterable[int]]) -> str:
    texts = []
    for cell, seeds in runs.items():
        paths = {seed: published_path(Path(), EXPERIMENT, cell, seed).with_suffix(".md") for seed in sorted(seeds)}
        links = ", ".join(f"[{seed}](<{path.as_posix()}>)" for seed, path in paths.items())
        texts += [f"{cell} seed {links}"] if links else []
    return f"Runs: {'; '.join(texts)}." if texts else ""
