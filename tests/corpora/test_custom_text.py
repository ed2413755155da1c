"""Running text of the user's own: words or subwords, unseen words, empty and long lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fairseq.data import Dictionary, data_utils

from normplugins.corpora import Prepared, prepare
from normplugins.utils.errors import UserError
from tests.helpers.corpora import config, quiet, text

TRAIN = ["ab cd ab", "", "ab cd ef", "ab"]
TEST = ["ab new words", "", "ab", " ".join(["cd"] * 4000)]


def own(folder: Path, test: list[str] = TEST, train_text: list[str] = TRAIN, **settings: Any) -> Prepared:
    for name, lines in {"train": train_text, "valid": ["ab cd"], "test": test}.items():
        (folder / f"{name}.txt").write_bytes(text(lines))
    files = {split: str(folder / f"{split}.txt") for split in ("train", "valid", "test")}
    return prepare(config("custom_lm", **files, **settings), folder / "data", quiet)


def stored(prepared: Prepared, split: str) -> list[str]:
    words = Dictionary.load(str(prepared.bin_dir / "dict.txt"))
    return [words.string(line) for line in data_utils.load_indexed_dataset(str(prepared.bin_dir / split), words)]


def test_words(tmp_path: Path) -> None:
    prepared = own(tmp_path)
    assert stored(prepared, "train") == TRAIN
    assert stored(prepared, "test") == ["ab <unk> <unk>", "", "ab", TEST[3]]
    assert prepared.manifest["counts"]["test"] == {"lines": 4, "words": 4004, "tokens": 4008}
    assert prepared.manifest["notes"] == [
        "2 test words that the training text does not have: read as <unk>",
        "the training text has no <unk>, so its probability is not learned: set corpus.min_count=2",
        "1 of 3 test lines also occur in the training text",
    ]
    rare = own(tmp_path, min_count=2)
    assert stored(rare, "train") == ["ab cd ab", "", "ab cd <unk>", "ab"]
    assert rare.folder != prepared.folder
    assert rare.manifest["unigram_ppl"]["test"] > 1


def test_without_a_rare_word_the_training_text_has_no_unknown_one(tmp_path: Path) -> None:
    prepared = own(tmp_path, ["ab ef"], train_text=["ab cd ab", "ab cd"], min_count=2)
    assert prepared.manifest["types"] == 3  # with the end of a line
    assert prepared.manifest["unigram_ppl"]["test"] is None
    assert any("the training text has no <unk>" in note for note in prepared.manifest["notes"])


@pytest.mark.parametrize(("kind", "size"), [("bpe", 2), ("sentencepiece", 11)])
def test_subwords(tmp_path: Path, kind: str, size: int) -> None:
    prepared = own(tmp_path, subword=kind, subword_size=size)
    plain = {
        "bpe": lambda line: line.replace("@@ ", ""),
        "sentencepiece": lambda line: line.replace(" ", "").replace("▁", " "),
    }
    assert [plain[kind](line).strip() for line in stored(prepared, "train")] == TRAIN
    counts = prepared.manifest["counts"]["test"]
    assert (counts["lines"], counts["words"]) == (4, 4004)
    assert counts["tokens"] > 4008
    assert prepared.manifest["subword"] == {"kind": kind}


def test_symbols_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"test\.txt, line 2: </s> would be read"):
        own(tmp_path, ["a", "b </s> c"])
    with pytest.raises(UserError, match=r"custom_lm needs a file of each split: set corpus\.train=FILE"):
        prepare(config("custom_lm"), tmp_path, quiet)
