"""Which training pairs are dropped: an empty side, a side too long, one side much longer than the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from normplugins.corpora.bitext import Pair
from normplugins.corpora.settings import CorpusConfig


@dataclass
class Cleaner:
    """The rule of Moses' clean-corpus-n.perl with ``max_length`` and ``max_ratio``, on tokens or subwords alike."""

    config: CorpusConfig

    def clean(self, pairs: list[Pair]) -> tuple[list[Pair], dict[str, int]]:
        """Return the pairs that stay, and how many went as ``empty`` and as ``over`` a limit."""
        longest, ratio = self.config.max_length or float("inf"), self.config.max_ratio or float("inf")
        kept, dropped = [], {"empty": 0, "over": 0}
        for source, target in pairs:
            short, long = sorted((len(source.split()), len(target.split())))
            if not short:
                dropped["empty"] += 1
            elif long > longest or long > ratio * short:
                dropped["over"] += 1
            else:
                kept.append((source, target))
        return kept, dropped

    def notes(self, dropped: Mapping[str, int]) -> list[str]:
        """Say how many training pairs went, and why."""
        notes = []
        if empty := dropped.get("empty"):
            notes.append(f"{empty:,} training pairs with an empty side dropped")
        if over := dropped.get("over"):
            limits = {"length": self.config.max_length, "ratio": self.config.max_ratio}
            said = " or ".join(f"{name} {limit}" for name, limit in limits.items() if limit)
            unit = "" if self.config.length_in == "words" else " in subwords"
            notes.append(f"{over:,} training pairs over {said}{unit} dropped")
        return notes


def add_counts(to: dict[str, int], more: Mapping[str, int]) -> None:
    """Add the counts of a chunk of pairs to those of the chunks before it."""
    for key, count in more.items():
        to[key] = to.get(key, 0) + count
