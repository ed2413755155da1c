"""The user's own corpus: parallel text files, plain or gzipped, raw or tokenized, with or without held-out splits."""

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from normplugins.corpora.base import SPLITS, Echo, register
from normplugins.corpora.parallel import Bitext, Pair, ParallelCorpus, zip_lines
from normplugins.utils.errors import UserError
from normplugins.utils.files import existing_file, iter_lines
from normplugins.utils.settings import setting

SIDES = ("source", "target")


@register
@dataclass
class Custom(ParallelCorpus):
    """Files are given as a prefix (``PREFIX.de`` and ``PREFIX.en``, each also as ``.gz``), or one by one."""

    name: str = "custom"
    train: str | None = setting(None, "prefix of the training files")
    valid: str | None = setting(None, "prefix of the validation files")
    test: str | None = setting(None, "prefix of the test files")
    train_source: str | None = setting(None, "file of the training text's source side, if it does not follow a prefix")
    train_target: str | None = setting(None, "file of the training text's target side")
    valid_source: str | None = setting(None, "file of the validation text's source side")
    valid_target: str | None = setting(None, "file of the validation text's target side")
    test_source: str | None = setting(None, "file of the test text's source side")
    test_target: str | None = setting(None, "file of the test text's target side")
    valid_size: int | None = setting(None, "validation pairs to draw from the training text without files", minimum=1)
    test_size: int | None = setting(None, "test pairs to draw from the training text without files", minimum=1)
    valid_every: int | None = setting(None, "every n-th clean training pair becomes the validation set", minimum=2)
    seed: int = setting(1, "seed for drawing pairs")

    def check(self) -> None:
        """Raise UserError for settings that the corpus cannot be prepared with; the text files are not opened."""
        super().check()
        for split in SPLITS:
            sides = [side for side in SIDES if getattr(self, f"{split}_{side}") or getattr(self, split)]
            drawn = getattr(self, f"{split}_size", None) or (split == "valid" and self.valid_every)
            if len(sides) == 1:
                raise UserError(
                    f"corpus.{split}_{sides[0]} is set and the other side is not: set both, or corpus.{split}"
                )
            if not sides and not drawn and split == "train":
                raise UserError(
                    "custom needs corpus.train=PREFIX (of PREFIX.de and PREFIX.en), "
                    "or corpus.train_source and train_target"
                )
            if not sides and not drawn:
                raise UserError(
                    f"no {split} set: give corpus.{split}=PREFIX, or corpus.{split}_size to draw one from train"
                )

    def files(self) -> dict[str, str]:
        """Return the settings that name files, as the user gave them."""
        names = (f"{split}{side}" for split in SPLITS for side in ("", "_source", "_target"))
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def fetch_files(self, raw: Path, echo: Echo) -> dict[str, Path]:  # noqa: ARG002
        """Return the files of each split that has files, as ``split.source`` and ``split.target``."""
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

        train, notes, numbers = load("train"), list[str](), dict[str, list[int]]()
        pairs = {split: list(load(split)) for split in where if split != "train"}
        sizes = {"valid": None if self.valid_every else self.valid_size, "test": self.test_size}
        draw = {split: size for split, size in sizes.items() if size and split not in pairs}
        if draw:
            drawn, numbers = _draw(list(train), draw, self.seed, where["train"][0], notes)
            train, pairs = iter(drawn.pop("train")), pairs | drawn
        return Bitext(train, pairs["test"], where, pairs.get("valid"), self.valid_every, notes=notes, numbers=numbers)


def _draw(
    train: list[Pair], sizes: dict[str, int], seed: int, where: str, notes: list[str]
) -> tuple[dict[str, list[Pair]], dict[str, list[int]]]:
    """Draw pairs at random without replacement; training pairs that are equal to a drawn pair are dropped.

    Returns the pairs of the drawn splits and of the training text, and their line numbers.
    """
    lines = [number for number, (source, target) in enumerate(train, 1) if source.strip() and target.strip()]
    wanted = sum(sizes.values())
    if wanted >= len(lines):
        raise UserError(
            f"{where} has {len(lines):,} pairs with two sides: too few to draw {wanted:,} of them for {list(sizes)}"
        )
    generator = random.Random(seed)
    keys = [generator.random() for _ in lines]  # random() alone is the same in every Python version
    order = [lines[i] for i in sorted(range(len(lines)), key=keys.__getitem__)]
    numbers, start = dict[str, list[int]](), 0
    for split, size in sizes.items():
        numbers[split] = sorted(order[start : start + size])
        start += size
    held_out = {train[number - 1] for drawn in numbers.values() for number in drawn}
    rest = sorted({*range(1, len(train) + 1)} - {*order[:start]})  # cleaning drops and counts those with an empty side
    numbers["train"] = [number for number in rest if train[number - 1] not in held_out]
    notes.append(f"{', '.join(f'{size:,} {split}' for split, size in sizes.items())} pairs drawn with seed {seed}")
    if leaks := len(rest) - len(numbers["train"]):
        notes.append(f"{leaks:,} training pairs equal to a drawn pair dropped")
    return {split: [train[number - 1] for number in kept] for split, kept in numbers.items()}, numbers
