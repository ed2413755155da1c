"""Sentence pairs before tokenisation, in memory or streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

from normplugins.utils.errors import UserError

Pair = tuple[str, str]


@dataclass
class Pairs:
    """Source and target lines of equal number, in memory; ``where`` names both files for messages."""

    source: list[str]
    target: list[str]
    where: tuple[str, str]

    def __post_init__(self) -> None:
        if len(self.source) != len(self.target):
            raise _unequal(self.where, len(self.source), len(self.target))

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Pair]:
        return zip(self.source, self.target, strict=True)

    def keep(self, wanted: Callable[[str, str], bool]) -> Pairs:
        """Return the pairs for which ``wanted(source, target)`` is True."""
        return self.take([i for i in range(len(self)) if wanted(self.source[i], self.target[i])])

    def take(self, indices: list[int]) -> Pairs:
        """Return the pairs at these indices, in this order."""
        return Pairs([self.source[i] for i in indices], [self.target[i] for i in indices], self.where)

    def map(self, change: Callable[[str], str]) -> Pairs:
        """Return the pairs with ``change`` applied to every line."""
        return Pairs([change(line) for line in self.source], [change(line) for line in self.target], self.where)


def concatenate(parts: Iterable[Pairs], where: tuple[str, str] | None = None) -> Pairs:
    """Return the pairs of several texts, one text after the other."""
    parts = list(parts)
    source, target = ([line for part in parts for line in getattr(part, side)] for side in ("source", "target"))
    all_files = ", ".join(part.where[0] for part in parts), ", ".join(part.where[1] for part in parts)
    return Pairs(source, target, where or all_files)


@dataclass
class Stream:
    """Pairs that are read from disk on each iteration; ``where`` names both files for messages."""

    read: Callable[[], Iterator[Pair]]
    where: tuple[str, str]

    def __iter__(self) -> Iterator[Pair]:
        return self.read()


def zip_lines(source: Iterable[str], target: Iterable[str], where: tuple[str, str]) -> Iterator[Pair]:
    """Yield line n of both sides. Raises UserError at the end if one side has more lines."""
    read = [0, 0]
    for pair in zip_longest(source, target):
        for side, line in enumerate(pair):
            read[side] += line is not None
        if None not in pair:
            yield pair
    if read[0] != read[1]:
        raise _unequal(where, *read)


@dataclass
class Bitext:
    """A corpus before tokenisation.

    Attributes:
        train, valid, test: the pairs of each split.
        valid_every: without ``valid``, every n-th clean training pair becomes the validation set.
        raw_test: the test set as published, if ``test`` is already changed.
        test_sets: number of pairs of each test set in ``test``, in order; empty for a single test set.
        notes: what the user should know about how the corpus was read.
    """

    train: Pairs | Stream
    test: Pairs
    valid: Pairs | None = None
    valid_every: int | None = None
    raw_test: Pairs | None = None
    test_sets: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _unequal(where: tuple[str, str], source: int, target: int) -> UserError:
    return UserError(
        f"{where[0]} has {source:,} lines and {where[1]} has {target:,}: "
        "line n of one must translate line n of the other"
    )
