"""Corpora prepared end to end: what comes out, what is skipped, what is refused, what a crash leaves."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from normplugins.corpora import CorpusConfig, prepare, remove_subwords
from normplugins.corpora.iwslt14 import ARCHIVE
from normplugins.corpora.multi30k import TEST_PARTS, TEXT_SHA256
from normplugins.corpora.pipeline import PreparedCorpus
from normplugins.utils.append_only_log import Growing
from normplugins.utils.errors import UserError
from tests.helpers.corpora import config, iwslt_members, kill_at, quiet, stranger, tar, text, tree

SMALL = {"subword_size": 40, "verify": False}


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NORMPLUGINS_MIRROR", raising=False)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in ("texts", "pieces"):
        monkeypatch.setattr(f"normplugins.corpora.{stage}.CHUNK", 10)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def custom(folder: Path, **overrides: object) -> CorpusConfig:
    settings = {"train": str(folder / "train"), "valid_size": 10, "test_size": 12, "subword_size": 40}
    return config("custom", **settings | overrides)


def iwslt(root: Path, members: dict[str, bytes], **overrides: object) -> PreparedCorpus:
    tar(root / "iwslt14" / "raw" / ARCHIVE, members)
    return prepare(config("iwslt14", **SMALL | overrides), root, quiet)


def test_iwslt14_follows_the_recipe(tmp_path: Path) -> None:
    said: list[str] = []
    tar(tmp_path / "iwslt14" / "raw" / ARCHIVE, iwslt_members(60))
    prepared = prepare(config("iwslt14", **SMALL), tmp_path, said.append)
    texts = prepared.folder / "tokenized"
    # 60 sentences, a title and a description; every 23rd of the 62 is validation
    assert {split: counts["pairs"] for split, counts in prepared.manifest["counts"].items()} == {
        "train": 60,
        "valid": 2,
        "test": 15,
    }
    assert lines(texts / "train.de")[:2] == ["ein titel , one title", "mit vier worten hier"]
    assert prepared.manifest["note"].startswith("60 of 160,239 train pairs, 2 of 7,283 valid pairs")
    assert any("60 of 160,239 train pairs" in line for line in said)
    # the parts of the test set in order, the apostrophe made straight, lower case; as written in the reference text
    assert lines(texts / "test.en")[0] == "ted.dev2010 it &apos;s no. 0 , not u.s ."
    assert [line.split()[0] for line in lines(texts / "test.de")[::3]] == [
        "ted.dev2010",
        "tedx.dev2012",
        "ted.tst2010",
        "ted.tst2011",
        "ted.tst2012",
    ]
    assert lines(prepared.reference_text)[0] == "TED.dev2010 it’s No. 0, not U.S."
    assert lines(prepared.reference_tokens) == lines(texts / "test.en")


def test_every_nth_clean_pair_is_validation_and_long_or_uneven_pairs_go(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    source = [f"ein wort {n}" for n in range(1, 11)] + ["a b c d", "x " * 30, ""]
    target = [f"one word {n}" for n in range(1, 11)] + ["a b", "x " * 30, "lost"]
    for split, count in (("train", 13), ("test", 3)):
        (tmp_path / "c" / f"{split}.de").write_bytes(text(source[:count]))
        (tmp_path / "c" / f"{split}.en").write_bytes(text(target[:count]))
    settings = {"test": str(tmp_path / "c" / "test"), "valid_every": 4, "valid_size": None, "test_size": None}
    prepared = prepare(custom(tmp_path / "c", max_length=20, max_ratio=1.5, **settings), tmp_path / "data", quiet)
    assert lines(prepared.folder / "tokenized" / "valid.de") == ["ein wort 4", "ein wort 8"]
    assert lines(prepared.folder / "tokenized" / "train.de")[-1] == "ein wort 10"
    assert prepared.manifest["notes"] == [
        "1 training pairs with an empty side dropped",
        "2 training pairs over length 20 or ratio 1.5 dropped",
    ]


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_custom_gives_what_fairseq_translates_and_scores(tmp_path: Path, kind: str) -> None:
    prepared = prepare(custom(stranger(tmp_path / "c"), subword=kind, subword_size=45), tmp_path / "data", quiet)
    folder, manifest = prepared.folder, prepared.manifest
    assert {path.name for path in prepared.bin_dir.iterdir()} >= {
        f"{split}.de-en.{language}.{end}"
        for split in ("train", "valid", "test")
        for language in ("de", "en")
        for end in ("bin", "idx")
    }
    dictionary = lines(prepared.bin_dir / "dict.de.txt")
    assert dictionary == lines(prepared.bin_dir / "dict.en.txt")
    assert manifest["dictionary_types"] == len(dictionary) + 4
    assert (manifest["dictionary_types"] % 8, manifest["subword"]["kind"]) == (0, kind)
    assert (len(lines(prepared.reference_text)), len(lines(prepared.reference_tokens))) == (12, 12)
    # a perfect translation scores perfectly, in tokens and as text
    output = [remove_subwords(line, kind) for line in lines(folder / "subword" / "test.en")]
    assert output == lines(folder / "tokenized" / "test.en")
    assert prepared.to_tokens(output) == lines(prepared.reference_tokens)
    assert prepared.to_text(output) == [line.lower() for line in lines(prepared.reference_text)]
    assert json.loads((folder / "corpus.json").read_text(encoding="utf-8")) == manifest

    from normplugins import compat  # noqa: F401

    # isort: split
    from fairseq.data import Dictionary, data_utils

    words = Dictionary.load(str(prepared.bin_dir / "dict.en.txt"))
    stored = data_utils.load_indexed_dataset(str(prepared.bin_dir / "test.de-en.en"), words)
    assert [words.string(sentence) for sentence in stored] == lines(folder / "subword" / "test.en")
    assert manifest["longest"].keys() == {"train", "valid", "test"}
    for split, longest in manifest["longest"].items():
        for side, language in (("source", "de"), ("target", "en")):
            stored = data_utils.load_indexed_dataset(str(prepared.bin_dir / f"{split}.de-en.{language}"), words)
            assert longest[side] == max(stored.sizes)


def test_fairseqs_own_preprocess_writes_the_same_files(tmp_path: Path) -> None:
    prepared = prepare(custom(stranger(tmp_path / "c")), tmp_path / "data", quiet)

    from normplugins import compat  # noqa: F401

    # isort: split
    from fairseq import options
    from fairseq_cli import preprocess

    arguments = [
        "--source-lang",
        "de",
        "--target-lang",
        "en",
        "--joined-dictionary",
        "--destdir",
        str(tmp_path / "bin"),
    ]
    for split in ("train", "valid", "test"):
        arguments += [f"--{split}pref", str(prepared.folder / "subword" / split)]
    preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    theirs = {name: data for name, data in tree(tmp_path / "bin").items() if name != "preprocess.log"}
    assert len(theirs) == 14
    assert {name: data for name, data in tree(prepared.bin_dir).items() if name != "stage.json"} == theirs


def test_given_tokens_stay_and_gz_prefixes_crlf_and_bom_are_read(tmp_path: Path) -> None:
    folder = stranger(tmp_path / "c", valid=9, test=8)
    (folder / "test.de").write_bytes(b"\xef\xbb\xbf" + text(["Ein Haus ."] * 8, "\r\n"))
    (folder / "test.en").write_bytes(text(["It &apos;s A. House ."] * 7) + b"No final line end")
    for language in ("de", "en"):
        plain = folder / f"valid.{language}"
        plain.with_name(plain.name + ".gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    files = {"valid": str(folder / "valid"), "test": str(folder / "test"), "valid_size": None, "test_size": None}
    given = custom(folder, tokenizer="given", lowercase=False, **files)
    prepared = prepare(given, tmp_path / "data", quiet)
    assert lines(prepared.folder / "tokenized" / "test.de") == ["Ein Haus ."] * 8
    assert lines(prepared.reference_tokens) == ["It &apos;s A. House ."] * 7 + ["No final line end"]
    assert lines(prepared.reference_text)[0] == "It's A. House."
    assert prepared.manifest["counts"]["valid"]["pairs"] == 9


@pytest.mark.usefixtures("small_chunks")
def test_same_bytes_whatever_the_workers_and_the_split_has_no_leak(tmp_path: Path) -> None:
    settings = custom(stranger(tmp_path / "c", 300))
    alone = prepare(settings, tmp_path / "one", quiet, workers=1)
    shared = prepare(settings, tmp_path / "three", quiet, workers=3)
    assert tree(alone.folder) == tree(shared.folder)
    texts = alone.folder / "tokenized"
    held_out = {*lines(texts / "valid.de"), *lines(texts / "test.de")}
    assert len(held_out) == 22
    assert not held_out & set(lines(texts / "train.de"))
    other = prepare(custom(tmp_path / "c", seed=2), tmp_path / "one", quiet)
    assert lines(other.reference_text) != lines(alone.reference_text)


def test_bpe_is_learnt_from_words_that_are_there_often_enough(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        for language in ("de", "en"):
            (folder / f"{split}.{language}").write_bytes(text(["abab abab", "xyxyxy"]))
    files: dict[str, object] = {split: str(folder / split) for split in ("train", "valid", "test")}
    files |= {"valid_size": None, "test_size": None}

    def codes(least: int) -> str:
        prepared = prepare(custom(folder, **files, subword_min_count=least), tmp_path / "data", quiet)
        return "".join(lines(prepared.folder / "subword" / "codes")[1:])

    assert ("x" in codes(2), "x" in codes(3), "a" in codes(3)) == (True, False, True)  # in both sides together
    with pytest.raises(UserError, match="no word of two letters"):
        codes(5)


def test_demo_is_the_same_everywhere_and_well_formed(tmp_path: Path) -> None:
    sizes = {"train_size": 400, "valid_size": 30, "test_size": 30, "subword_size": 50}
    prepared = prepare(config("demo", **sizes), tmp_path, quiet)
    digest = prepared.manifest["sha256"]["tokenized/train.bb"]
    assert digest == DEMO_TRAIN_BB
    source = lines(prepared.folder / "tokenized" / "train.aa")
    lengths = [len(line.split()) for line in source]
    assert (min(lengths) >= 4, max(lengths) <= 30, len(set(lengths)) > 12) == (True, True, True)
    assert len({*source, *lines(prepared.folder / "tokenized" / "test.aa")}) == 430
    other = prepare(config("demo", **sizes, seed=2), tmp_path, quiet)
    assert other.manifest["sha256"]["tokenized/train.bb"] != digest


# Recorded once; it holds on every Python, since the generator draws with random() alone.
DEMO_TRAIN_BB = "2967ec3d817e87f4e11d8449f403ccb90df3888e62e7fbc7c2cabf3ae5338fb1"


def test_finished_stages_are_kept_and_changes_redo_them(tmp_path: Path) -> None:
    folder, root, said = stranger(tmp_path / "c"), tmp_path / "data", []
    first = prepare(custom(folder), root, quiet)
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    again = prepare(custom(folder), root, said.append)
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before
    assert again == first
    assert not any("izing" in line for line in said)
    # another setting goes into another folder
    assert prepare(custom(folder, subword_size=41), root, quiet).folder != first.folder
    # a stage that is damaged is done again, and those before it are not
    whole = tree(first.folder)
    (first.bin_dir / "train.de-en.de.bin").write_bytes(b"")
    said.clear()
    prepare(custom(folder), root, said.append)
    assert [line for line in said if "izing" in line] == ["custom: binarizing"]
    assert tree(first.folder) == whole
    # other words in the input file redo everything in place
    changed = (folder / "train.de").read_bytes().replace(b"Haus", b"Heim").replace(b"haus", b"heim")
    (folder / "train.de").write_bytes(changed)
    redone = prepare(custom(folder), root, quiet)
    assert redone.folder == first.folder
    assert "heim" in (redone.folder / "tokenized" / "train.de").read_text(encoding="utf-8")
    assert redone.manifest["inputs"] != first.manifest["inputs"]


def test_a_relative_path_is_another_corpus_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = []
    for place in ("a", "b"):
        stranger(tmp_path / place)
        monkeypatch.chdir(tmp_path / place)
        variants.append(custom(Path()).variant())
    assert variants[0] != variants[1]


BAD = {
    "utf-8": (lambda d: (d / "train.en").write_bytes(b"good\nb\xffd\n"), r"train\.en, line 2: not UTF-8 \(byte 0xff\)"),
    "lines": (lambda d: (d / "train.en").write_bytes(b"one\n"), r"train\.de has 120 lines and .*train\.en has 1"),
    "missing": (lambda d: (d / "train.en").unlink(), r"corpus\.train: there is no file .*train\.en"),
    "empty": (lambda d: [(d / f"train.{s}").write_bytes(b"") for s in ("de", "en")], r"0 pairs: too few"),
    "gzip": (
        lambda d: (
            (d / "train.en.gz").write_bytes(gzip.compress((d / "train.en").read_bytes())[:-40]),
            (d / "train.en").unlink(),
        ),
        r"train\.en\.gz is truncated",
    ),
    "no gzip": (
        lambda d: ((d / "train.en.gz").write_bytes(b"hello\n"), (d / "train.en").unlink()),
        r"train\.en\.gz is truncated or no gzip",
    ),
    "folder": (
        lambda d: ((d / "train.en").unlink(), (d / "train.en").mkdir()),
        r"corpus\.train: cannot read .*train\.en: Is a directory",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_one_clear_line_and_the_same_command_works_once_it_is_good(tmp_path: Path, name: str) -> None:
    spoil, message = BAD[name]
    folder, root = stranger(tmp_path / "c"), tmp_path / "data"
    spoil(folder)
    with pytest.raises(UserError, match=message) as raised:
        prepare(custom(folder), root, quiet)
    assert "\n" not in str(raised.value)
    assert not [path for path in tree(root) if not path.endswith(".lock")]
    shutil.rmtree(folder)
    stranger(folder)
    assert prepare(custom(folder), root, quiet).manifest["counts"]["test"]["pairs"] == 12


def test_an_empty_test_line_is_refused(tmp_path: Path) -> None:
    folder = stranger(tmp_path / "c", valid=5, test=5)
    (folder / "test.en").write_bytes(b"a\nb\n \nc\nd\n")
    settings = custom(folder, valid=str(folder / "valid"), test=str(folder / "test"))
    with pytest.raises(UserError, match=r"test\.en, line 3 is empty"):
        prepare(settings, tmp_path / "data", quiet)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subword": "words"}, "unknown corpus.subword 'words'; known: bpe, sentencepiece"),
        ({"tokenizer": "mosses"}, "unknown corpus.tokenizer"),
        ({"valid_size": None}, "no valid set"),
        ({"test_size": 0}, "corpus.test_size is 0"),
        ({"test_size": 200}, "too few to draw"),
        ({"train": None}, "custom needs corpus.train=PREFIX"),
        ({"train": None, "train_source": "SELF"}, "the other side is not"),
        ({"target": "de"}, "both 'de'"),
        ({"subword": "sentencepiece", "subword_min_count": 2}, "subword_min_count is set, and changes nothing about"),
        ({"train_size": 50}, "corpus.train_size is set, and changes nothing about custom"),
        ({"max_length": 1}, r"no training pair is left of .*train\.de and .*; 98 training pairs over length 1 dropped"),
        ({"subword": "sentencepiece", "subword_size": 100000}, "SentencePiece cannot learn 100000 pieces"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    folder = stranger(tmp_path / "c")
    if settings.get("train_source"):
        settings = settings | {"train_source": str(folder / "train.de")}
    with pytest.raises(UserError, match=message):
        prepare(custom(folder, **settings), tmp_path / "data", quiet)


def test_unknown_corpus_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown corpus 'nothing'; known: iwslt14, multi30k, wmt14, demo, custom"):
        prepare(CorpusConfig(name="nothing"), tmp_path, quiet)
    assert not list(tmp_path.iterdir())


def test_unknown_key_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown corpus setting merges; known: name, source, .*subword_size"):
        CorpusConfig.from_mapping({"name": "demo", "merges": 3})


def test_a_bad_archive_is_refused_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, members = tmp_path / "mirror" / ARCHIVE, iwslt_members()
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(archive.parent))
    settings, root = config("iwslt14", **SMALL), tmp_path / "data"

    def refused(message: str, settings: CorpusConfig = settings) -> None:
        with pytest.raises(UserError, match=message) as raised:
            prepare(settings, root, quiet)
        assert str(archive) in str(raised.value) or "sha256" in str(raised.value)
        assert not [path for path in tree(root) if not path.endswith(".lock")]

    tar(archive, members)
    archive.write_bytes(archive.read_bytes()[:-300])
    refused("truncated or no tar")
    archive.write_bytes(b"<html>not found</html>")
    refused("truncated or no tar")
    tar(archive, {name: data for name, data in members.items() if "tst2011" not in name})
    refused(r"not the IWSLT14 archive: it has no IWSLT14\.TED\.tst2011\.de-en\.de\.xml \(2 files")
    tar(archive, members | {"de-en/train.tags.de-en.de": b"one line\n"})
    refused("has 1 lines and .* has 62")
    tar(archive, members | {"de-en/train.tags.de-en.de": b"good\n\xe4\n"})
    refused(r"train\.tags\.de-en\.de, line 2: not UTF-8")
    tar(archive, members)
    refused("15 pairs, not the published 6,750", config("iwslt14", subword_size=40))
    refused("not the published IWSLT14 test set", config("iwslt14", subword_size=40, expected_test=None))
    assert prepare(settings, root, quiet).manifest["counts"]["test"]["pairs"] == 15


def test_both_directions_of_iwslt14_share_their_text(tmp_path: Path) -> None:
    one = iwslt(tmp_path, iwslt_members())
    other = iwslt(tmp_path, iwslt_members(), source="en", target="de")
    assert one.folder != other.folder
    for name in ("train.de", "valid.en", "test.de"):
        assert (one.folder / "tokenized" / name).read_bytes() == (other.folder / "tokenized" / name).read_bytes()
    assert one.manifest["longest"]["test"]["source"] == other.manifest["longest"]["test"]["target"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("iwslt14", {"source": "fr"}, "iwslt14 is German-English: de-en or en-de, not fr-en"),
        ("multi30k", {"target": "fr"}, "multi30k is German-English here: de-en or en-de, not de-fr"),
        ("iwslt14", {"valid_every": None}, "iwslt14 has no validation set of its own: corpus.valid_every=23"),
        ("multi30k", {"train": "my/train"}, "corpus.train is set, and changes nothing about multi30k"),
        ("multi30k", {"train_size": 300}, "corpus.train_size is set, and changes nothing about multi30k"),
        ("demo", {"test_size": None}, "demo needs corpus.test_size"),
    ],
)
def test_settings_that_do_not_fit_a_corpus_are_refused_before_any_download(
    tmp_path: Path, name: str, settings: dict[str, object], message: str
) -> None:
    chosen = config(name, **settings)
    with pytest.raises(UserError, match=message):
        chosen.check()
    with pytest.raises(UserError, match=message):
        prepare(chosen, tmp_path / "data", quiet)
    assert not list(tmp_path.iterdir())


def multi30k(folder: Path) -> Path:
    """Write files of Multi30k's names, with other text."""
    made = stranger(folder.parent / "made", 120, val=11, **dict(zip(TEST_PARTS.values(), (5, 4, 2, 3), strict=True)))
    folder.mkdir(parents=True)
    for path in made.iterdir():
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"verify": False, "max_length": 1}, "no training pair is left of .*; 120 training pairs over length 1"),
        ({}, r"train\.de\.gz is not the published Multi30k text"),
        ({"verify": False, "source": "fr"}, "not fr-en"),
    ],
)
def test_files_put_there_by_hand_stay_whatever_is_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    before = tree(multi30k(tmp_path / "multi30k" / "raw"))
    with pytest.raises(UserError, match=message):
        prepare(config("multi30k", subword_size=40, **settings), tmp_path, quiet)
    assert tree(tmp_path / "multi30k" / "raw") == before


def test_what_was_fetched_stays_when_a_setting_is_wrong_and_goes_when_it_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, raw = multi30k(tmp_path / "mirror" / "multi30k"), tmp_path / "multi30k" / "raw"
    raw.mkdir(parents=True)
    shutil.copy(mirror / "val.de.gz", raw)  # by hand
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(mirror))
    with pytest.raises(UserError, match=r"mirror/multi30k/train\.de\.gz is not the published Multi30k text"):
        prepare(config("multi30k", subword_size=40), tmp_path, quiet)
    assert [path.name for path in raw.iterdir()] == ["val.de.gz"]
    with pytest.raises(UserError, match="no training pair is left"):
        prepare(config("multi30k", **SMALL, max_length=1), tmp_path, quiet)
    assert tree(raw) == tree(mirror)


def test_multi30k_is_verified_by_its_text_and_each_time_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = multi30k(tmp_path / "multi30k" / "raw")
    settings = {"subword_size": 40, "expected_test": 14}
    unverified = prepare(config("multi30k", **settings, verify=False), tmp_path, quiet)
    with pytest.raises(UserError, match="not the published Multi30k text"):
        prepare(config("multi30k", **settings), tmp_path, quiet)
    texts = {path.name.removesuffix(".gz"): gzip.decompress(path.read_bytes()) for path in raw.iterdir()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in texts.items()}
    assert digests.keys() == TEXT_SHA256.keys()
    monkeypatch.setattr("normplugins.corpora.multi30k.TEXT_SHA256", digests)  # the published text is not ours to commit
    for name, data in texts.items():
        (raw / f"{name}.gz").write_bytes(gzip.compress(data, compresslevel=1))
    assert prepare(config("multi30k", **settings), tmp_path, quiet).folder == unverified.folder
    backwards = prepare(config("multi30k", **settings, source="en", target="de"), tmp_path, quiet)
    assert lines(backwards.folder / "tokenized" / "test.de") == lines(unverified.folder / "tokenized" / "test.de")


def test_multi30k_from_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = multi30k(tmp_path / "mirror" / "multi30k")
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(mirror.parent))
    prepared = prepare(config("multi30k", **SMALL), tmp_path / "data", quiet)
    assert prepared.manifest["note"] == ("120 of 29,000 train pairs, 11 of 1,014 valid pairs, 14 of 3,532 test pairs")
    monkeypatch.delenv("NORMPLUGINS_MIRROR")
    shutil.rmtree(mirror)
    assert prepare(config("multi30k", **SMALL), tmp_path / "data", quiet) == prepared  # nothing is fetched again


def test_multi30k_is_tested_on_all_its_test_sets_one_after_the_other(tmp_path: Path) -> None:
    raw = multi30k(tmp_path / "multi30k" / "raw")
    prepared = prepare(config("multi30k", **SMALL), tmp_path, quiet)
    sets = prepared.manifest["test_sets"]
    assert list(sets.items()) == [("flickr2016", 5), ("flickr2017", 4), ("mscoco2017", 2), ("flickr2018", 3)]
    assert prepared.manifest["counts"]["test"]["pairs"] == 14
    texts = [
        gzip.decompress((raw / f"{part}.en.gz").read_bytes()).decode().splitlines() for part in TEST_PARTS.values()
    ]
    assert [len(text) for text in texts] == list(sets.values())
    assert lines(prepared.reference_text) == [" ".join(line.split()) for text in texts for line in text]
    one = prepare(config("demo", train_size=120, valid_size=11, test_size=12, subword_size=40), tmp_path, quiet)
    assert "test_sets" not in one.manifest


SCRIPT = textwrap.dedent("""
    import json, resource, sys
    from pathlib import Path
    from normplugins.corpora import CorpusConfig, prepare
    from normplugins.utils.errors import UserError
    settings, root, what = sys.argv[1:]
    settings = CorpusConfig(**json.loads(settings))
    if what.startswith("limit="):
        limit = int(what.removeprefix("limit="))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        prepare(settings, Path(root))
    except UserError as error:
        sys.exit("error: " + str(error))
""")


def run(folder: Path, root: Path, what: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, json.dumps(asdict(custom(folder))), str(root), what]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path})


@pytest.mark.parametrize("limit", [3000, 4300])  # bytes: shorter than a file of the first stage, and of the second
def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(tmp_path: Path, limit: int) -> None:
    folder, root = stranger(tmp_path / "c"), tmp_path / "data"
    done = run(folder, root, f"limit={limit}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no space left to write")
    assert done.stderr.count("\n") == 1
    stages = [path for path in (root / "custom").rglob("*") if path.is_dir() and path.parent.name.startswith("de-en")]
    assert all((stage / "stage.json").is_file() for stage in stages)
    prepared = prepare(custom(folder), root, quiet)
    fresh = prepare(custom(folder), tmp_path / "fresh", quiet)
    assert tree(prepared.folder) == tree(fresh.folder)


def test_a_disk_that_fills_up_while_binarizing(tmp_path: Path) -> None:
    folder, root = stranger(tmp_path / "c"), tmp_path / "data"
    prepared = prepare(custom(folder), root, quiet)
    whole = tree(prepared.folder)
    shutil.rmtree(prepared.bin_dir)
    done = run(folder, root, "limit=700")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert re.match(r"error: no space left to write .*/bin: free some", done.stderr)
    assert not prepared.bin_dir.exists()
    assert tree(prepare(custom(folder), root, quiet).folder) == whole


POINTS = {
    "the third chunk of tokens": (r"os.rename .*\.tokenized.*journal", 4, "going on after 30 pairs"),
    "all tokens": (r"os.rename \S*\.tokenized\S*tmp \S*/tokenized", 1, "going on after 98 pairs"),
    "learning": (r"open .*\.codes", 1, ""),
    "the second chunk of subwords": (r"os.rename .*\.subword.*journal", 3, "going on after 10 pairs"),
    "all subwords": (r"os.rename \S*\.subword\S*tmp \S*/subword", 1, "going on after 98 pairs"),
    "binarizing": (r"open .*test\.de-en\.de\.idx", 1, "binarizing"),
    "the manifest": (r"os.rename .*corpus\.json", 1, ""),
}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_in_any_stage_the_same_command_goes_on_and_ends_the_same(tmp_path: Path, workers: int) -> None:
    settings = custom(stranger(tmp_path / "c"))
    whole = tree(prepare(settings, tmp_path / "fresh", quiet).folder)
    for point, (event, count, told) in POINTS.items():
        root, said = tmp_path / point.replace(" ", "-"), list[str]()
        kill_at(event, count, lambda root=root: prepare(settings, root, quiet, workers))
        prepared = prepare(settings, root, said.append, workers)
        assert tree(prepared.folder) == whole, point
        assert told in "\n".join(said), point


@pytest.mark.usefixtures("small_chunks")
def test_what_ctrl_c_broke_off_goes_on_and_what_an_error_broke_off_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, said = custom(stranger(tmp_path / "c")), dict[type[BaseException], list[str]]()
    for error in (KeyboardInterrupt, UserError):
        left, real, said[error] = [error()] * 3, Growing.note, []

        def note(files: Growing, left: list[BaseException] = left, real: Callable[[Growing], None] = real) -> None:
            if len(left) == 1:
                raise left[0]
            left.pop()
            real(files)

        with monkeypatch.context() as patched:
            patched.setattr(Growing, "note", note)
            with pytest.raises(error):
                prepare(settings, tmp_path / error.__name__, quiet)
        prepare(settings, tmp_path / error.__name__, said[error].append)
    assert "custom: going on after 20 pairs" in said[KeyboardInterrupt]
    assert not any("going on" in line for line in said[UserError])


@pytest.mark.usefixtures("small_chunks")
def test_what_a_killed_call_left_is_not_mixed_with_other_text(tmp_path: Path) -> None:
    folder, root, said = stranger(tmp_path / "c"), tmp_path / "data", list[str]()
    kill_at(*POINTS["the third chunk of tokens"][:2], lambda: prepare(custom(folder), root, quiet))
    (folder / "train.de").write_bytes((folder / "train.de").read_bytes().replace(b"Haus", b"Heim"))
    prepared = prepare(custom(folder), root, said.append)
    assert "going on" not in "\n".join(said)
    assert tree(prepared.folder) == tree(prepare(custom(folder), tmp_path / "fresh", quiet).folder)


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    folder, root = stranger(tmp_path / "c"), tmp_path / "data"
    holder = textwrap.dedent("""
        import sys
        from pathlib import Path
        from normplugins.utils.files import lock
        with lock(Path(sys.argv[1]), print):
            print("held", flush=True)
            sys.stdin.read()
    """)
    command = [sys.executable, "-c", holder, str(root / "custom")]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        said: list[str] = []

        def echo(line: str) -> None:
            said.append(line)
            if "waiting" in line and first.stdin is not None:
                first.stdin.close()  # let it go only once the second has said that it waits

        prepare(custom(folder), root, echo)
    assert f"another process (pid {first.pid})" in said[0]
