"""The user's own corpus: parallel text files, plain or gzipped, raw or tokenised, with or without held-out splits."""

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from normplugins.corpora.base import SPLITS, Echo, register
from normplugins.corpora.bitext import Bitext, Pair, Pairs, Stream, zip_lines
from normplugins.corpora.parallel import ParallelCorpus
from normplugins.utils.errors import UserError
from normplugins.utils.files import existing_file, iter_lines, read_lines
from normplugins.utils.settings import setting


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
            sides = [side for side in ("source", "target") if self._given(split, side)]
            if len(sides) == 1:
                raise UserError(
                    f"corpus.{split}_{sides[0]} is set and the other side is not: set both, or corpus.{split}"
                )
            if sides or self._drawn(split) or (split == "valid" and self.valid_every):
                continue
            if split == "train":
                raise UserError(
                    "custom needs corpus.train=PREFIX (of PREFIX.de and PREFIX.en), "
                    "or corpus.train_source and train_target"
                )
            raise UserError(
                f"no {split} set: give corpus.{split}=PREFIX, or corpus.{split}_size to draw one from train"
            )

    def files(self) -> dict[str, str]:
        """Return the settings that name files, as the user gave them."""
        names = (f"{split}{side}" for split in SPLITS for side in ("", "_source", "_target"))
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _given(self, split: str, side: str) -> str | None:
        given: str | None = getattr(self, f"{split}_{side}") or getattr(self, split)
        return given

    def _drawn(self, split: str) -> int | None:
        return {"valid": self.valid_size, "test": self.test_size}.get(split)

    def fetch_files(self, raw: Path, echo: Echo) -> dict[str, Path]:  # noqa: ARG002
        """Return the files of each split that has files, as ``split.source`` and ``split.target``."""
        sides = {f"{split}.{side}": (split, side) for split in SPLITS for side in ("source", "target")}
        return {name: file for name, (split, side) in sides.items() if (file := self._file(split, side))}

    def _file(self, split: str, side: str) -> Path | None:
        given, prefix = getattr(self, f"{split}_{side}"), getattr(self, split)
        if given:
            return existing_file(Path(given).expanduser(), f"corpus.{split}_{side}")
        if not prefix:
            return None
        path = Path(f"{prefix}.{getattr(self, side)}").expanduser()
        zipped = path.with_name(path.name + ".gz")
        found = zipped if os.path.isfile(zipped) and not os.path.exists(path) else path  # noqa: PTH110, PTH113
        return existing_file(found, f"corpus.{split}")

    def read(self, files: Mapping[str, Path]) -> Bitext:
        """Read the splits that have files, and draw the other splits from the training pairs."""
        paths = {
            split: (files[f"{split}.source"], files[f"{split}.target"])
            for split in SPLITS
            if f"{split}.source" in files
        }
        wheres = {split: (str(source), str(target)) for split, (source, target) in paths.items()}

        def load(split: str) -> Pairs:
            source, target = paths[split]
            return Pairs(read_lines(source), read_lines(target), wheres[split])

        def stream() -> Iterator[Pair]:
            source, target = paths["train"]
            return zip_lines(iter_lines(source), iter_lines(target), wheres["train"])

        pairs, notes = {split: load(split) for split in paths if split != "train"}, list[str]()
        draw = {split: size for split in ("valid", "test") if split not in pairs and (size := self._drawn(split))}
        if self.valid_every:
            draw.pop("valid", None)
        if draw:
            pairs |= _draw(load("train"), draw, self.seed, notes)
        train = pairs["train"] if draw else Stream(stream, wheres["train"])
        return Bitext(train, pairs["test"], pairs.get("valid"), self.valid_every, notes=notes)


def _draw(train: Pairs, sizes: dict[str, int], seed: int, notes: list[str]) -> dict[str, Pairs]:
    """Draw pairs at random without replacement; training pairs that are equal to a drawn pair are dropped."""
    train = train.keep(lambda source, target: bool(source.strip() and target.strip()))
    wanted = sum(sizes.values())
    if wanted >= len(train):
        raise UserError(
            f"{train.where[0]} has {len(train):,} pairs: too few to draw {wanted:,} of them for {list(sizes)}"
        )
    generator = random.Random(seed)
    keys = [generator.random() for _ in range(len(train))]  # random() alone is the same in every Python version
    order = sorted(range(len(train)), key=keys.__getitem__)
    drawn, start = {}, 0
    for split, size in sizes.items():
        drawn[split] = train.take(sorted(order[start : start + size]))
        start += size
    held_out = {pair for pairs in drawn.values() for pair in pairs}
    rest = train.take(sorted(order[start:]))
    kept = rest.keep(lambda source, target: (source, target) not in held_out)
    notes.append(f"{', '.join(f'{size:,} {split}' for split, size in sizes.items())} pairs drawn with seed {seed}")
    if leaks := len(rest) - len(kept):
        notes.append(f"{leaks:,} training pairs equal to a drawn pair dropped")
    return {"train": kept, **drawn}
