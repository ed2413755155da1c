"""Pairs of sentences, and what is done to them before subwords: tokens, cleaning, case, splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from normplugins.corpora.config import CorpusConfig
from normplugins.corpora.parallel import map_lines
from normplugins.corpora.tokenizer import detokenize, squeeze, tokenize
from normplugins.errors import UserError


@dataclass
class Pairs:
    """Source and target lines of equal number; ``where`` names both files for messages."""

    source: list[str]
    target: list[str]
    where: tuple[str, str]

    def __post_init__(self) -> None:
        if len(self.source) != len(self.target):
            one, other = self.where
            raise UserError(
                f"{one} has {len(self.source):,} lines and {other} has {len(self.target):,}: "
                "line n of one must translate line n of the other"
            )

    def __len__(self) -> int:
        return len(self.source)

    def keep(self, wanted: Callable[[str, str], bool]) -> Pairs:
        """Return the pairs for which ``wanted(source, target)`` holds."""
        return self.take([i for i in range(len(self)) if wanted(self.source[i], self.target[i])])

    def take(self, indices: list[int]) -> Pairs:
        """Return the pairs at these indices, in this order."""
        return Pairs([self.source[i] for i in indices], [self.target[i] for i in indices], self.where)


@dataclass
class Bitext:
    """A corpus before tokenisation; no ``valid`` when it is still to be taken out of ``train``.

    ``raw_test`` is the test set as its authors wrote it, where ``test`` is already changed.
    """

    train: Pairs
    test: Pairs
    valid: Pairs | None = None
    raw_test: Pairs | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Tokenized:
    """The three splits as the subword model sees them, and what the test set is scored against.

    ``reference_tokens``: target side in Moses (or given) tokens; ``reference_text``: as written, in its
    own case (detokenised where only tokens were given).
    """

    splits: dict[str, Pairs]
    source_text: list[str]
    reference_tokens: list[str]
    reference_text: list[str]
    notes: list[str]


def prepare_text(bitext: Bitext, config: CorpusConfig, workers: int | None = None) -> Tokenized:
    """Tokenise all splits, clean the training pairs, lower the case, and take out a validation set if there is none."""
    notes = list(bitext.notes)
    kind = config.text_kind

    def side(lines: list[str], language: str, by: str) -> list[str]:
        work = partial(tokenize, language=language) if by == "moses" else squeeze
        done = map_lines(work, lines, workers)
        return [line.lower() for line in done] if config.lowercase else done

    def both(pairs: Pairs) -> Pairs:
        source, target = side(pairs.source, config.source, kind), side(pairs.target, config.target, kind)
        return Pairs(source, target, pairs.where)

    test, train = both(bitext.test), both(bitext.train)
    _refuse_empty(test)
    train = _clean(train, config, notes)
    if bitext.valid is not None:
        valid = _drop_empty(both(bitext.valid), "validation", notes)
    else:
        assert config.valid_every, "a corpus without a validation set asks for valid_every in its check"
        n = config.valid_every
        valid = train.take(list(range(n - 1, len(train), n)))
        train = train.take([i for i in range(len(train)) if i % n != n - 1])
    for name, pairs in (("training", train), ("validation", valid), ("test", test)):
        if not len(pairs):
            raise UserError("; ".join([f"no {name} pair is left of {' and '.join(pairs.where)}", *notes]))
    raw = bitext.raw_test or bitext.test
    tokens = test.target if kind != "none" else side(bitext.test.target, config.target, "moses")
    text = detokenize(raw.target, config.target) if kind == "given" else raw.target
    return Tokenized(
        splits={"train": train, "valid": valid, "test": test},
        source_text=[squeeze(line) for line in raw.source],
        reference_tokens=tokens,
        reference_text=[squeeze(line) for line in text],
        notes=notes,
    )


def _refuse_empty(test: Pairs) -> None:
    for lines, where in ((test.source, test.where[0]), (test.target, test.where[1])):
        if "" in lines:
            raise UserError(
                f"{where}, line {lines.index('') + 1} is empty: a test pair must have both sides; remove it"
            )


def _drop_empty(pairs: Pairs, name: str, notes: list[str]) -> Pairs:
    kept = pairs.keep(lambda source, target: bool(source and target))
    if dropped := len(pairs) - len(kept):
        notes.append(f"{dropped:,} {name} pairs with an empty side dropped")
    return kept


def _clean(train: Pairs, config: CorpusConfig, notes: list[str]) -> Pairs:
    train = _drop_empty(train, "training", notes)
    longest, ratio = config.max_length or float("inf"), config.max_ratio or float("inf")

    def fits(source: str, target: str) -> bool:
        short, long = sorted((len(source.split()), len(target.split())))
        return long <= longest and long <= ratio * short

    kept = train.keep(fits)
    if dropped := len(train) - len(kept):
        limits = {"length": config.max_length, "ratio": config.max_ratio}
        over = " or ".join(f"{name} {limit}" for name, limit in limits.items() if limit)
        notes.append(f"{dropped:,} training pairs over {over} dropped")
    return kept
