"""Anybody's corpus: parallel text files, plain or gzipped, raw or tokenised, split already or to be split here."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from normplugins.corpora.bitext import Bitext, Pair, Pairs, Stream, side_by_side
from normplugins.corpora.settings import CorpusConfig
from normplugins.utils.errors import UserError
from normplugins.utils.files import existing_file, iter_lines, read_lines

SPLITS = ("train", "valid", "test")
_FILES = {f"{split}{side}" for split in SPLITS for side in ("", "_source", "_target")}
USES = frozenset(_FILES | {"valid_size", "test_size", "valid_every"})


def check(config: CorpusConfig) -> None:
    """Raise UserError for settings that this corpus cannot be prepared with; the files are not looked at."""
    for split in SPLITS:
        given = {side: getattr(config, f"{split}_{side}") or getattr(config, split) for side in ("source", "target")}
        held = [side for side, path in given.items() if path]
        if len(held) == 1:
            raise UserError(f"corpus.{split}_{held[0]} is set and the other side is not: set both, or corpus.{split}")
        if held or getattr(config, f"{split}_size") or (split == "valid" and config.valid_every):
            continue
        if split == "train":
            raise UserError(
                "custom needs corpus.train=PREFIX (of PREFIX.de and PREFIX.en), or corpus.train_source and train_target"
            )
        raise UserError(f"no {split} set: give corpus.{split}=PREFIX, or corpus.{split}_size to draw one from train")


def inputs(config: CorpusConfig, folder: Path, echo: Callable[[str], None]) -> dict[str, Path]:  # noqa: ARG001
    """Return the files of each split that has any, as ``split.source`` and ``split.target``."""
    files = {}
    for split in SPLITS:
        for side, language in (("source", config.source), ("target", config.target)):
            given, prefix = getattr(config, f"{split}_{side}"), getattr(config, split)
            if given:
                files[f"{split}.{side}"] = existing_file(Path(given).expanduser(), f"corpus.{split}_{side}")
            elif prefix:
                path = Path(f"{prefix}.{language}").expanduser()
                zipped = path.with_name(path.name + ".gz")
                found = zipped if os.path.isfile(zipped) and not os.path.exists(path) else path  # noqa: PTH110, PTH113
                files[f"{split}.{side}"] = existing_file(found, f"corpus.{split}")
    return files


def read(config: CorpusConfig, files: dict[str, Path]) -> Bitext:
    """Read the given splits, and draw those that are not given out of the training pairs."""
    given = [split for split in SPLITS if f"{split}.source" in files]
    paths = {split: (files[f"{split}.source"], files[f"{split}.target"]) for split in given}
    wheres = {split: (str(source), str(target)) for split, (source, target) in paths.items()}

    def held(split: str) -> Pairs:
        return Pairs(*(read_lines(path) for path in paths[split]), wheres[split])

    pairs, notes = {split: held(split) for split in paths if split != "train"}, list[str]()
    draw = {split: getattr(config, f"{split}_size") for split in ("valid", "test") if split not in pairs}
    if config.valid_every and "valid" in draw:
        del draw["valid"]
    if draw:
        pairs |= _draw(held("train"), draw, config.seed, notes)

    def stream() -> Iterator[Pair]:
        source, target = (iter_lines(path) for path in paths["train"])
        return side_by_side(source, target, wheres["train"])

    train = pairs["train"] if draw else Stream(stream, wheres["train"])
    return Bitext(train, pairs["test"], pairs.get("valid"), notes=notes)


def _draw(train: Pairs, sizes: dict[str, int], seed: int, notes: list[str]) -> dict[str, Pairs]:
    """Draw pairs at random, each drawn pair once; equal pairs left in the training set go too, or it would leak."""
    train = train.keep(lambda source, target: bool(source.strip() and target.strip()))
    wanted = sum(sizes.values())
    if wanted >= len(train):
        raise UserError(
            f"{train.where[0]} has {len(train):,} pairs: too few to draw {wanted:,} of them for {list(sizes)}"
        )
    generator = random.Random(seed)
    keys = [generator.random() for _ in range(len(train))]  # random() alone is the same on every Python
    order = sorted(range(len(train)), key=keys.__getitem__)
    drawn, start = {}, 0
    for split, size in sizes.items():
        drawn[split] = train.take(sorted(order[start : start + size]))
        start += size
    held_out = {pair for pairs in drawn.values() for pair in zip(pairs.source, pairs.target, strict=True)}
    rest = train.take(sorted(order[start:]))
    kept = rest.keep(lambda source, target: (source, target) not in held_out)
    notes.append(f"{', '.join(f'{size:,} {split}' for split, size in sizes.items())} pairs drawn with seed {seed}")
    if leaks := len(rest) - len(kept):
        notes.append(f"{leaks:,} training pairs equal to a drawn pair dropped")
    return {"train": kept, **drawn}
