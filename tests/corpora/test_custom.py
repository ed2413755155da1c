"""A corpus of the user's own files: plain, gzipped or tokenized, with drawn splits; and bad files."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest

from normplugins.corpora import prepare
from normplugins.utils.errors import UserError
from normplugins.utils.files import read_lines
from tests.helpers.corpora import custom, quiet, text, tree, write_user_corpus


def test_long_or_uneven_pairs_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    source = [f"ein wort {n}" for n in range(1, 11)] + ["a b c d", "x " * 30, ""]
    target = [f"one word {n}" for n in range(1, 11)] + ["a b", "x " * 30, "lost"]
    for split, count in (("train", 13), ("valid", 2), ("test", 3)):
        (tmp_path / "c" / f"{split}.de").write_bytes(text(source[:count]))
        (tmp_path / "c" / f"{split}.en").write_bytes(text(target[:count]))
    files = {split: str(tmp_path / "c" / split) for split in ("valid", "test")}
    settings = {**files, "valid_size": None, "test_size": None, "subword_size": 20}
    prepared = prepare(custom(tmp_path / "c", max_length=20, max_ratio=1.5, **settings), tmp_path / "data", quiet)
    assert read_lines(prepared.folder / "tokenized" / "train.de") == source[:10]
    assert prepared.manifest["notes"] == [
        "1 training pairs with an empty side dropped",
        "2 training pairs over length 20 or ratio 1.5 dropped",
        "3 of 3 test pairs also occur in the training text, 3 counting the source side only",
    ]


def test_given_tokens_are_kept_and_gz_crlf_and_bom_are_read(tmp_path: Path) -> None:
    folder = write_user_corpus(tmp_path / "c", valid=9, test=8)
    (folder / "test.de").write_bytes(b"\xef\xbb\xbf" + text(["Ein Haus ."] * 8, "\r\n"))
    (folder / "test.en").write_bytes(text(["It &apos;s A. House ."] * 7) + b"No final line end")
    for plain in (folder / f"{split}.{language}" for split in ("train", "valid") for language in ("de", "en")):
        plain.with_name(plain.name + ".gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    files = {"valid": str(folder / "valid"), "test": str(folder / "test"), "valid_size": None, "test_size": None}
    given = custom(folder, tokenizer="given", lowercase=False, **files)
    prepared = prepare(given, tmp_path / "data", quiet)
    assert read_lines(prepared.folder / "tokenized" / "test.de") == ["Ein Haus ."] * 8
    assert read_lines(prepared.reference_tokens) == ["It &apos;s A. House ."] * 7 + ["No final line end"]
    assert read_lines(prepared.reference_text)[0] == "It's A. House."
    assert prepared.manifest["counts"]["valid"]["pairs"] == 9


def read_pairs(prefix: Path) -> list[tuple[str, str]]:
    return list(zip(*(read_lines(prefix.with_name(f"{prefix.name}.{side}")) for side in ("de", "en")), strict=True))


@pytest.mark.parametrize("given", [None, "valid", "test"])
def test_drawn_splits_share_no_pair_with_another_split(tmp_path: Path, given: str | None) -> None:
    folder = write_user_corpus(tmp_path / "c", 60, **({given: 9} if given else {}))
    pairs, known = read_pairs(folder / "train"), read_pairs(folder / given) if given else []
    alike = [(source.lower(), f" {target.replace(' ', '  ')}") for source, target in pairs]
    for side, language in enumerate(("de", "en")):
        lines = [pair[side] for pair in (*pairs, *alike, *pairs, *known)]
        (folder / f"train.{language}").write_bytes(text(lines))
    settings = {given: str(folder / given), f"{given}_size": None} if given else {}
    prepared = prepare(custom(folder, **settings), tmp_path / "data", quiet)
    splits = {split: read_pairs(prepared.folder / "tokenized" / split) for split in ("train", "valid", "test")}
    drawn = sum(len(found) for split, found in splits.items() if split not in ("train", given))
    assert drawn == {None: 22, "valid": 12, "test": 10}[given]
    assert len(splits["train"]) == 3 * (60 - drawn)
    assert sum(len(set(found)) for found in splits.values()) == len({*chain(*splits.values())}) == 60 + len(known)
    dropped = f"{2 * drawn + len(known)} training pairs dropped: copies of pairs in "
    assert any(note.startswith(dropped) for note in prepared.manifest["notes"])
    with pytest.raises(UserError, match=r"has 60 different pairs with two sides.*: too few to draw"):
        prepare(custom(folder, **{"test_size": 60, "valid_size": 60} | settings), tmp_path / "data", quiet)


def test_a_relative_path_is_another_corpus_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = []
    for place in ("a", "b"):
        write_user_corpus(tmp_path / place)
        monkeypatch.chdir(tmp_path / place)
        variants.append(custom(Path()).variant())
    assert variants[0] != variants[1]


def pack(path: Path, data: bytes) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(data)
    path.unlink()


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "utf-8": (lambda en: en.write_bytes(b"good\nb\xffd\n"), r"train\.en, line 2: not UTF-8 \(byte 0xff\)"),
    "lines": (lambda en: en.write_bytes(b"one\n"), r"train\.de has 120 lines and .*train\.en has 1"),
    "missing": (lambda en: en.unlink(), r"corpus\.train: there is no file .*train\.en"),
    "empty": (
        lambda en: [en.write_bytes(b""), en.with_suffix(".de").write_bytes(b"")],
        r"0 different pairs with two sides: too few to draw 22",
    ),
    "gzip": (lambda en: pack(en, gzip.compress(en.read_bytes())[:-40]), r"train\.en\.gz is truncated or not a gzip"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_one_clear_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    spoil, message = BAD[name]
    folder, root = write_user_corpus(tmp_path / "raw"), tmp_path / "data"  # not the folder of fetched files
    spoil(folder / "train.en")
    with pytest.raises(UserError, match=message) as raised:
        prepare(custom(folder), root, quiet)
    assert "\n" not in str(raised.value)
    assert "to fetch it again" not in str(raised.value), "the user's own file"
    assert not [path for path in tree(root) if not path.endswith((".lock", ".hashes.json"))]


def test_an_empty_test_line_is_refused_and_the_same_command_works_once_it_is_filled(tmp_path: Path) -> None:
    folder = write_user_corpus(tmp_path / "c", test=5)
    good = (folder / "test.en").read_bytes()
    (folder / "test.en").write_bytes(b"a\nb\n \nc\nd\n")
    settings = custom(folder, test=str(folder / "test"), test_size=None)
    with pytest.raises(UserError, match=r"test\.en, line 3 is empty"):
        prepare(settings, tmp_path / "data", quiet)
    (folder / "test.en").write_bytes(good)
    assert prepare(settings, tmp_path / "data", quiet).manifest["counts"]["test"]["pairs"] == 5
