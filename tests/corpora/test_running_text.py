"""Running text prepared end to end: the published counts, fairseq's own numbers, what is refused, what is kept."""

from __future__ import annotations

import hashlib
import io
import json
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fairseq.data import Dictionary, data_utils

from normplugins.corpora import Prepared, prepare
from normplugins.corpora.running_text import unigram_perplexity
from normplugins.utils.errors import UserError
from tests.helpers.corpora import config, kill_at, quiet, text, tree

UNCHECKED = {"verify": False}
TRAIN = ["", "a b a", "= <unk> =", "", "c b a"]
TEXTS = {"train": text(f" {line} " for line in TRAIN), "valid": text(["a new word"]), "test": text(["a a", ""])}
ARCHIVES = {"wikitext2": "wikitext-2-v1.zip", "wikitext103": "wikitext-103-v1.zip"}


def ptb_files(folder: Path, **texts: bytes) -> Path:
    """Write a corpus of PTB's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, data in (TEXTS | texts).items():
        (folder / f"ptb.{split}.txt").write_bytes(data)
    return folder


def archive(path: Path, texts: dict[str, bytes] = TEXTS) -> Path:
    """Write a corpus of WikiText's layout; the bytes depend only on its texts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(zipfile.ZipInfo("wikitext-2/"), b"")
        for split, data in texts.items():
            member = zipfile.ZipInfo(f"wikitext-2/wiki.{split}.tokens")
            made.writestr(member, data, zipfile.ZIP_DEFLATED)
    return path


def small(root: Path, name: str = "ptb", **texts: bytes) -> Prepared:
    if name == "ptb":
        ptb_files(root / "ptb" / "raw", **texts)
    else:
        archive(root / name / "raw" / ARCHIVES[name], TEXTS | texts)
    return prepare(config(name, **UNCHECKED), root, quiet)


def stored(prepared: Prepared, split: str) -> list[list[int]]:
    words = Dictionary.load(str(prepared.bin_dir / "dict.txt"))
    return [line.tolist() for line in data_utils.load_indexed_dataset(str(prepared.bin_dir / split), words)]


PUBLISHED = {  # words, lines and types
    "ptb": ({"train": (887521, 42068), "valid": (70390, 3370), "test": (78669, 3761)}, 10000),
    "wikitext2": ({"train": (2051910, 36718), "valid": (213886, 3760), "test": (241211, 4358)}, 33278),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_text_gives_the_published_counts(
    tmp_path: Path, real_corpora: Callable[[str, str], Path], name: str
) -> None:
    file = {"ptb": "ptb.train.txt", "wikitext2": ARCHIVES["wikitext2"]}[name]
    real_corpora(file, name)
    prepared = prepare(config(name), tmp_path, quiet)  # verified, by sha256
    manifest, (counts, types) = prepared.manifest, PUBLISHED[name]
    for split, (words, lines) in counts.items():
        assert manifest["counts"][split] == {"lines": lines, "words": words, "tokens": words + lines}
        dataset = data_utils.load_indexed_dataset(str(prepared.bin_dir / split), None)
        assert (len(dataset), dataset.sizes.sum()) == (lines, words + lines)
    assert (manifest["types"], manifest["dictionary_types"], manifest["note"], manifest["notes"]) == (
        types,
        types + 2,
        "",
        [],
    )
    assert len(Dictionary.load(str(prepared.bin_dir / "dict.txt"))) == types + 2
    assert all(200 < ppl < 1500 for ppl in manifest["unigram_ppl"].values())


@pytest.mark.parametrize("name", ["ptb", "wikitext2"])
def test_what_comes_out_is_what_fairseq_reads(tmp_path: Path, name: str) -> None:
    prepared = small(tmp_path, name)
    assert (prepared.bin_dir / "dict.txt").read_text(encoding="utf-8") == "a 3\n= 2\nb 2\nc 1\n"  # and no made-up word
    end, unknown, a, equals, b, c = 2, 3, 4, 5, 6, 7
    assert stored(prepared, "train") == [
        [end],  # a blank line is a line
        [a, b, a, end],
        [equals, unknown, equals, end],  # the text's <unk> is fairseq's
        [end],
        [c, b, a, end],
    ]
    assert stored(prepared, "valid") == [[a, unknown, unknown, end]]
    assert stored(prepared, "test") == [[a, a, end], [end]]
    manifest = prepared.manifest
    assert manifest["counts"]["train"] == {"lines": 5, "words": 9, "tokens": 14}
    assert (manifest["types"], manifest["dictionary_types"]) == (6, 8)
    assert manifest["notes"] == ["2 valid words that the training text does not have: read as <unk>"]
    assert manifest["unigram_ppl"]["test"] == pytest.approx((3 / 14 * 3 / 14 * 5 / 14 * 5 / 14) ** -0.25)
    assert manifest["unigram_ppl"]["valid"] == pytest.approx((3 / 14 * 1 / 14 * 1 / 14 * 5 / 14) ** -0.25)
    assert json.loads((prepared.folder / "corpus.json").read_text(encoding="utf-8")) == manifest
    assert manifest["sha256"]["text/train"] == hashlib.sha256(TEXTS["train"]).hexdigest()


def test_other_counts_than_the_published_are_said_and_recorded(tmp_path: Path) -> None:
    said: list[str] = []
    archive(tmp_path / "wikitext103" / "raw" / ARCHIVES["wikitext103"])
    prepared = prepare(config("wikitext103", **UNCHECKED), tmp_path, said.append)
    note = prepared.manifest["note"]
    assert note.startswith("14 of 103,227,021 train tokens, 5 of 1,801,350 train lines")
    assert note.endswith("6 of 267,735 types")
    assert f"wikitext103: {note}" in said


def test_fairseqs_own_preprocess_writes_the_same_files(tmp_path: Path) -> None:
    from fairseq import options
    from fairseq_cli import preprocess

    made = text(f"w{n % 7} w{n % 3}{n % 5} <unk> w{n * n % 11}" if n % 4 else "" for n in range(300))
    prepared, raw = small(tmp_path, train=made), tmp_path / "ptb" / "raw"
    arguments = ["--only-source", "--destdir", str(tmp_path / "bin"), "--padding-factor", "1"]
    for split in TEXTS:
        arguments += [f"--{split}pref", str(raw / f"ptb.{split}.txt")]
    preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    theirs = {name: data for name, data in tree(tmp_path / "bin").items() if name != "preprocess.log"}
    assert len(theirs) == 7
    assert {name: data for name, data in tree(prepared.bin_dir).items() if name != "stage.json"} == theirs


def test_a_word_that_no_model_of_train_knows_has_no_perplexity() -> None:
    assert unigram_perplexity(Counter(["a", "b", "</s>"]), Counter(["a", "c", "</s>"])) is None
    train, split = Counter(["a", "<unk>", "<unk>", "</s>"]), Counter(["c", "</s>"])
    assert unigram_perplexity(train, split) == pytest.approx((2 / 4 / 4) ** -0.5)


def test_text_that_is_already_prepared_is_verified_too(tmp_path: Path) -> None:
    small(tmp_path)
    with pytest.raises(UserError, match="is not the published ptb text"):
        prepare(config("ptb"), tmp_path, quiet)


def damaged(data: bytes) -> bytes:
    """The archive with one byte of its first text changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as made:
        info = next(member for member in made.infolist() if member.file_size)
    at = info.header_offset + 30 + len(info.filename) + 2
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def encrypted(data: bytes) -> bytes:
    """The archive with its texts marked as encrypted in the directory at its end."""
    before, *entries = data.split(b"PK\1\2")
    return b"PK\1\2".join([before, *(entry[:4] + b"\1" + entry[5:] for entry in entries)])


BAD: dict[str, tuple[Any, str]] = {
    "other text": (lambda data: data, r"wiki\.train\.tokens is not the published wikitext2 text: its sha256 is \w{64}"),
    "damaged": (damaged, r"wikitext-2-v1\.zip cannot be read as a \.tgz or \.zip archive"),
    "encrypted": (encrypted, r"wikitext-2-v1\.zip cannot be read .* is encrypted"),
    "no zip": (lambda data: b"<html>moved</html>", r"wikitext-2-v1\.zip cannot be read as a \.tgz or \.zip archive"),
    "no file": ({"train": b"a\n", "valid": b"a\n"}, r"it has no wiki\.test\.tokens"),
    "utf-8": ({**TEXTS, "valid": b"good\nb\xffd\n"}, r"wiki\.valid\.tokens, line 2: not UTF-8 \(byte 0xff\)"),
    "empty": ({**TEXTS, "test": b" \n"}, r"wiki\.test\.tokens has no word"),
    "reserved": ({**TEXTS, "test": b"a <pad>\n"}, r"wiki\.test\.tokens, line 1: <pad> would be read as a symbol"),
}
KEPT = ("utf-8", "empty", "reserved")  # a whole archive with a text that is refused


@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_is_one_clear_line_and_a_damaged_one_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    spoil, message = BAD[name]
    raw, mirror = tmp_path / "data" / "wikitext2" / "raw", tmp_path / "mirror"
    path = archive(mirror / ARCHIVES["wikitext2"], spoil if isinstance(spoil, dict) else TEXTS)
    if callable(spoil):
        path.write_bytes(spoil(path.read_bytes()))
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(mirror))
    chosen = config("wikitext2", verify=name == "other text")
    with pytest.raises(UserError, match=message) as raised:
        prepare(chosen, tmp_path / "data", quiet)
    assert "\n" not in str(raised.value)
    assert str(path if name not in KEPT else raw / path.name) in str(raised.value)
    kept = {path.name: path.read_bytes()} if name in KEPT else {}
    assert tree(raw) == kept
    assert {file.name for file in raw.parent.rglob("*")} <= {"raw", ".lock", ".hashes.json", "word", *kept}


def test_files_with_a_bad_line_are_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror, raw, said = tmp_path / "mirror", tmp_path / "data" / "ptb" / "raw", list[str]()
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(ptb_files(mirror, valid=text(["a", "a </s> b"]))))
    for _ in range(2):
        with pytest.raises(UserError, match=rf"^{raw}/ptb\.valid\.txt, line 2: </s> would be read as a symbol"):
            prepare(config("ptb", **UNCHECKED), tmp_path / "data", said.append)
        assert tree(raw) == tree(mirror)
    assert sum("taken from the mirror" in line for line in said) == 3


def test_killed_while_binarizing_the_same_command_ends_the_same(tmp_path: Path) -> None:
    root = archive(tmp_path / "wikitext103" / "raw" / ARCHIVES["wikitext103"]).parents[2]
    kill_at(r"open .*test\.idx", 1, lambda: prepare(config("wikitext103", **UNCHECKED), root, quiet))
    assert tree(small(tmp_path, "wikitext103").folder) == tree(small(tmp_path / "fresh", "wikitext103").folder)


@pytest.mark.slow
def test_the_text_is_never_held(tmp_path: Path) -> None:
    line = " ".join(f"{'x' * 90}{n}" for n in range(30)) + "\n"  # long words: many bytes, little work
    train = line.encode() * (25_000_000 // len(line))
    archive(tmp_path / "wikitext103" / "raw" / ARCHIVES["wikitext103"], TEXTS | {"train": train})
    tracemalloc.start()
    try:
        prepare(config("wikitext103", **UNCHECKED), tmp_path, quiet)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6 < len(train) / 3
