"""What ``normplugins bench`` is told, whatever it measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from normplugins.bench.results import CSV
from normplugins.norms import known_norms
from normplugins.utils.errors import UserError
from normplugins.utils.threads import use_threads
from normplugins.utils.worker_processes import available_cores


@dataclass(frozen=True)
class Options:
    """One call of ``normplugins bench``.

    ``results``: the folder with benchmarks.csv. ``repeats``: None for the benchmark's own number. ``threads``: None for
    every core. ``norms``: empty for the benchmark's own choice. ``quick``: the main case alone, no growth.
    ``compiled``: torch.compile's variants too. ``checkpoint``: what to decode with; None: untrained weights.
    ``overrides``: of the experiment's config, where there is one.
    """

    results: Path = Path("results")
    repeats: int | None = None
    threads: int | None = None
    norms: tuple[str, ...] = ()
    quick: bool = False
    compiled: bool = False
    checkpoint: Path | None = None
    overrides: Sequence[str] = ()

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            UserError: an unknown norm, or a number below 1.
        """
        if unknown := [name for name in self.norms if name not in known_norms()]:
            raise UserError(f"--norms: unknown norm '{unknown[0]}'. Known: {', '.join(known_norms())}")
        for name in ("repeats", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: what is needed is at least 1")

    @property
    def csv(self) -> Path:
        """The file that rows are added to."""
        return self.results / CSV

    def set_threads(self) -> int:
        """Let PyTorch use as many threads as asked for; returns how many."""
        use_threads(self.threads or available_cores())
        return torch.get_num_threads()
