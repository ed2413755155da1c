"""Pairs of sentences as a corpus gives them: a few in memory, or as many as there are, read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

from normplugins.utils.errors import UserError

Pair = tuple[str, str]


@dataclass
class Pairs:
    """Source and target lines of equal number, held; ``where`` names both files for messages."""

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
        """Return the pairs for which ``wanted(source, target)`` holds."""
        return self.take([i for i in range(len(self)) if wanted(self.source[i], self.target[i])])

    def take(self, indices: list[int]) -> Pairs:
        """Return the pairs at these indices, in this order."""
        return Pairs([self.source[i] for i in indices], [self.target[i] for i in indices], self.where)


def joined(parts: Iterable[Pairs]) -> Pairs:
    """Return the pairs of several texts, one text after the other."""
    parts = list(parts)
    where = [", ".join(part.where[side] for part in parts) for side in (0, 1)]
    source, target = ([line for part in parts for line in getattr(part, side)] for side in ("source", "target"))
    return Pairs(source, target, (where[0], where[1]))


@dataclass
class Stream:
    """Pairs read when asked for, and anew each time; ``where`` names both files for messages."""

    read: Callable[[], Iterator[Pair]]
    where: tuple[str, str]

    def __iter__(self) -> Iterator[Pair]:
        return self.read()


def side_by_side(source: Iterable[str], target: Iterable[str], where: tuple[str, str]) -> Iterator[Pair]:
    """Yield line n of both; raises UserError at the end if one has more."""
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
    """A corpus before tokenisation; no ``valid`` when it is still to be taken out of ``train``.

    ``raw_test`` is the test set as its authors wrote it, where ``test`` is already changed. ``test_sets``: how many
    pairs each of several test sets has, in the order in which they stand in ``test``; empty for a single one.
    """

    train: Pairs | Stream
    test: Pairs
    valid: Pairs | None = None
    raw_test: Pairs | None = None
    test_sets: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _unequal(where: tuple[str, str], source: int, target: int) -> UserError:
    return UserError(
        f"{where[0]} has {source:,} lines and {where[1]} has {target:,}: "
        "line n of one must translate line n of the other"
    )
