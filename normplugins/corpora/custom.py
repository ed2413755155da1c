"""The user's own corpus: parallel text files, plain or gzipped, raw or tokenized, with or without held-out splits."""

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

from normplugins.corpora.base import SPLITS, register
from normplugins.corpora.parallel import Bitext, Pair, ParallelCorpus, zip_lines
from normplugins.corpora.tokenizer import squeeze
from normplugins.utils.errors import UserError
from normplugins.utils.files import existing_file, iter_lines
from normplugins.utils.settings import setting
from normplugins.utils.steps import Echo

SIDES = ("source", "target")
_DRAW = 2
"""Version of the drawing: increased when the same text and seed give different splits, which then get a new folder."""


@register
@dataclass
class Custom(ParallelCorpus):
    """The user's parallel text, given by a prefix (``PREFIX.de`` and ``PREFIX.en``, also as ``.gz``) or by file."""

    name: str = "custom"
    train: str | None = setting(None, "prefix of the training files")
    valid: str | None = setting(None, "prefix of the validation files")
    test: str | None = setting(None, "prefix of the test files")
    train_source: str | None = setting(None, "file of the training text's source side, if there is no prefix")
    train_target: str | None = setting(None, "file of the training text's target side")
    valid_source: str | None = setting(None, "file of the validation text's source side")
    valid_target: str | None = setting(None, "file of the validation text's target side")
    test_source: str | None = setting(None, "file of the test text's source side")
    test_target: str | None = setting(None, "file of the test text's target side")
    valid_size: int | None = setting(None, "draw this many validation pairs from the training text", minimum=1)
    test_size: int | None = setting(None, "draw this many test pairs from the training text", minimum=1)
    seed: int = setting(1, "seed for drawing pairs")

    def check(self) -> None:
        """Raise UserError for settings that the corpus cannot be prepared with; the text files are not opened."""
        super().check()
        for split in SPLITS:
            sides = [key for key in (f"{split}_{side}" for side in SIDES) if getattr(self, key)]
            ways = [key for key in (split, *sides[:1], f"{split}_size") if getattr(self, key, None)]
            if len(ways) > 1:
                raise UserError(f"corpus: {' and '.join(ways)} are different ways to give the {split} set: keep one")
            if len(sides) == 1:
                raise UserError(f"corpus.{sides[0]} is set and the other side is not: set both, or corpus.{split}")
            if not ways and split == "train":
                raise UserError(
                    "custom needs corpus.train=PREFIX (of PREFIX.de and PREFIX.en), "
                    "or corpus.train_source and train_target"
                )
            if not ways:
                raise UserError(
                    f"no {split} set: give corpus.{split}=PREFIX, or corpus.{split}_size to draw one from train"
                )

    def files(self) -> dict[str, str]:
        """Return the settings that name files, as the user gave them."""
        names = (f"{split}{side}" for split in SPLITS for side in ("", "_source", "_target"))
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def settings(self) -> dict[str, Any]:
        """Return all that the prepared text depends on, including how splits are drawn, except the input files."""
        return super().settings() | ({"draw": _DRAW} if self._drawn() else {})

    def _drawn(self) -> dict[str, int]:
        """Return the size, in pairs, of each split that is drawn from the training text."""
        sizes = {"valid": self.valid_size, "test": self.test_size}
        return {split: size for split, size in sizes.items() if size}

    def fetch_files(self, raw: Path, echo: Echo) -> dict[str, Path]:  # noqa: ARG002
        """Return the files of each split that has files, by the names ``<split>.source`` and ``<split>.target``."""
        files = {}
        for split, side in product(SPLITS, SIDES):
            if given := getattr(self, f"{split}_{side}"):
                files[f"{split}.{side}"] = existing_file(Path(given).expanduser(), f"corpus.{split}_{side}")
            elif prefix := getattr(self, split):
                path = Path(f"{prefix}.{getattr(self, side)}").expanduser()
                zipped = path.with_name(f"{path.name}.gz")
                found = zipped if os.path.isfile(zipped) and not os.path.exists(path) else path  # noqa: PTH110, PTH113
                files[f"{split}.{side}"] = existing_file(found, f"corpus.{split}")
        return files

    def read(self, files: Mapping[str, Path]) -> Bitext:
        """Read the splits that have files, and draw the other splits from the training pairs."""
        where = {
            split: (str(files[f"{split}.source"]), str(files[f"{split}.target"]))
            for split in SPLITS
            if f"{split}.source" in files
        }

        def load(split: str) -> Iterator[Pair]:
            source, target = (iter_lines(files[f"{split}.{side}"]) for side in SIDES)
            return zip_lines(source, target, where[split])

        given = {split: list(load(split)) for split in where if split != "train"}
        if self._drawn():
            return self._draw(list(load("train")), given, where)
        return Bitext(load("train"), given["test"], where, given["valid"])

    def _draw(self, train: list[Pair], given: Mapping[str, list[Pair]], where: Mapping[str, tuple[str, str]]) -> Bitext:
        """Draw pairs at random without replacement; no drawn pair occurs in another split.

        At most one copy of a pair is drawn, and pairs of other splits, drawn or given, are removed from the training
        text.
        """
        sizes, needed = self._drawn(), sum(self._drawn().values())
        key = random.Random(self.seed).random  # the only method with the same values in every Python version
        order = sorted((key(), number) for number, pair in enumerate(train, 1) if all(map(str.strip, pair)))
        held_out = {self._as_compared(pair) for pairs in given.values() for pair in pairs}
        found: dict[str, int] = {}  # the number of each different pair, in random order
        for _, number in order:
            if (compared := self._as_compared(train[number - 1])) not in held_out:
                found.setdefault(compared, number)
            if len(found) > needed:
                break
        if len(found) <= needed:  # one pair has to be left to train on
            raise UserError(
                f"{where['train'][0]} has {len(found):,} different pairs with two sides"
                f"{' that no other split has' if given else ''}: too few to draw {needed:,} for "
                f"{' and '.join(sizes)} and to keep one to train on"
            )
        numbers, candidates = {}, iter(found.items())
        for split, size in sizes.items():
            drawn = dict(islice(candidates, size))
            held_out |= drawn.keys()
            numbers[split] = sorted(drawn.values())
        counts = ", ".join(f"{size:,} {split}" for split, size in sizes.items())
        notes = [f"{counts} pairs drawn with seed {self.seed}"]
        # pairs with an empty side stay: cleaning drops and counts them
        numbers["train"] = [n for n, pair in enumerate(train, 1) if self._as_compared(pair) not in held_out]
        if copies := len(train) - sum(map(len, numbers.values())):
            notes.append(f"{copies:,} training pairs dropped: copies of pairs in {' or '.join({**given, **sizes})}")
        splits = {**given, **{split: [train[n - 1] for n in kept] for split, kept in numbers.items()}}
        return Bitext(splits["train"], splits["test"], where, splits["valid"], notes=notes, numbers=numbers)

    def _as_compared(self, pair: Pair) -> str:
        """Return a pair in the form that is compared: whitespace squeezed, and lower-cased if the corpus is."""
        line = "\n".join(map(squeeze, pair))
        return line.lower() if self.lowercase else line
