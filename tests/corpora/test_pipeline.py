"""Corpora prepared end to end: output, skipped stages, refused input, and what remains after a crash."""

from __future__ import annotations

import gzip
import hashlib
import json
import multiprocessing
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fairseq import options
from fairseq.data import Dictionary, data_utils
from fairseq_cli import preprocess

from normplugins.corpora import ParallelCorpus, corpus_config, prepare, remove_subwords
from normplugins.corpora.iwslt14 import ARCHIVE
from normplugins.corpora.multi30k import TEST_PARTS, TEXT_SHA256
from normplugins.utils.errors import UserError
from normplugins.utils.locks import hold_lock
from normplugins.utils.worker_processes import call_in_subprocess
from tests.helpers.corpora import config, iwslt_members, kill_at, quiet, stranger, tar, text, tree

SMALL = {"subword_size": 40, "verify": False}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normplugins.corpora.split_writer.CHUNK", 10)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def custom(folder: Path, **overrides: object) -> ParallelCorpus:
    settings = {"train": str(folder / "train"), "valid_size": 10, "test_size": 12, "subword_size": 40}
    return config("custom", **settings | overrides)


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
    languages = ["--source-lang", "de", "--target-lang", "en"]
    arguments = [*languages, "--joined-dictionary", "--destdir", str(tmp_path / "bin")]
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
    for plain in (folder / f"{split}.{language}" for split in ("train", "valid") for language in ("de", "en")):
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


def pack(path: Path, data: bytes) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(data)
    path.unlink()


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "utf-8": (lambda en: en.write_bytes(b"good\nb\xffd\n"), r"train\.en, line 2: not UTF-8 \(byte 0xff\)"),
    "lines": (lambda en: en.write_bytes(b"one\n"), r"train\.de has 120 lines and .*train\.en has 1"),
    "missing": (lambda en: en.unlink(), r"corpus\.train: there is no file .*train\.en"),
    "empty": (
        lambda en: [en.write_bytes(b""), en.with_suffix(".de").write_bytes(b"")],
        r"0 pairs: too few to draw 22",
    ),
    "gzip": (lambda en: pack(en, gzip.compress(en.read_bytes())[:-40]), r"train\.en\.gz is truncated or no gzip"),
    "no gzip": (lambda en: pack(en, b"hello\n"), r"train\.en\.gz is truncated or no gzip"),
    "folder": (lambda en: (en.unlink(), en.mkdir()), r"corpus\.train: cannot read .*train\.en: Is a directory"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_one_clear_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    spoil, message = BAD[name]
    folder, root = stranger(tmp_path / "c"), tmp_path / "data"
    spoil(folder / "train.en")
    with pytest.raises(UserError, match=message) as raised:
        prepare(custom(folder), root, quiet)
    assert "\n" not in str(raised.value)
    assert not [path for path in tree(root) if not path.endswith(".lock")]


def test_an_empty_test_line_is_refused_and_the_same_command_works_once_it_is_filled(tmp_path: Path) -> None:
    folder = stranger(tmp_path / "c", test=5)
    good = (folder / "test.en").read_bytes()
    (folder / "test.en").write_bytes(b"a\nb\n \nc\nd\n")
    settings = custom(folder, test=str(folder / "test"), test_size=None)
    with pytest.raises(UserError, match=r"test\.en, line 3 is empty"):
        prepare(settings, tmp_path / "data", quiet)
    (folder / "test.en").write_bytes(good)
    assert prepare(settings, tmp_path / "data", quiet).manifest["counts"]["test"]["pairs"] == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test_size": 200}, "too few to draw"),
        ({"max_length": 1}, r"no training pair is left of .*train\.de and .*; 98 training pairs over length 1 dropped"),
        ({"subword": "sentencepiece", "subword_size": 100000}, "SentencePiece cannot learn 100000 pieces"),
    ],
)
def test_settings_that_the_text_does_not_allow_are_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(custom(stranger(tmp_path / "c"), **settings), tmp_path / "data", quiet)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("custom", {"subword": "words"}, "unknown corpus.subword 'words'; known: bpe, sentencepiece"),
        ("custom", {"tokenizer": "mosses"}, "unknown corpus.tokenizer"),
        ("custom", {"length_in": "lines"}, "unknown corpus.length_in 'lines'; known: words, subwords"),
        ("custom", {"valid_size": None}, "no valid set"),
        ("custom", {"test_size": 0}, "corpus.test_size is 0, and must be at least 1"),
        ("custom", {"train": None}, "custom needs corpus.train=PREFIX"),
        ("custom", {"train": None, "train_source": "a.txt"}, "the other side is not"),
        ("custom", {"target": "de"}, "both 'de'"),
        ("custom", {"source": False}, r"a language is a code such as de, not False \(quote it in YAML: 'no'\)"),
        ("custom", {"subword": "sentencepiece", "subword_min_count": 2}, "subword_min_count is for BPE, and changes"),
        ("custom", {"tokenizer": "given", "clean_punctuation": True}, "corpus.clean_punctuation is for raw text"),
        ("custom", {"train_size": 50}, "corpus.train_size is set, and changes nothing about custom"),
        ("iwslt14", {"source": "fr"}, "iwslt14 is de-en or en-de, not fr-en"),
        ("iwslt14", {"valid_every": None}, "corpus.valid_every needs a value: every n-th clean training pair"),
        ("iwslt14", {"length_in": "subwords"}, "corpus.valid_every counts pairs that are clean by their words"),
        ("multi30k", {"train": "my/train"}, "corpus.train is set, and changes nothing about multi30k"),
        ("wmt14", {"source": "de", "target": "en"}, "wmt14 is en-de, not de-en"),
        ("wmt14", {"news_commentary": "v11"}, "unknown corpus.news_commentary 'v11'; known: v9, v12"),
        ("wmt14", {"valid_every": 100}, "corpus.valid_every is set, and changes nothing about wmt14"),
        ("demo", {"test_size": None}, "corpus.test_size needs a value"),
        ("demo", {"merges": 3}, r"unknown corpus setting merges; known: name, source, .*subword_size"),
        ("ptb", {"subword": "sentencepiece"}, "corpus.subword is set, and changes nothing about ptb"),
    ],
)
def test_settings_that_do_not_fit_a_corpus_are_refused(name: str, settings: dict[str, object], message: str) -> None:
    files = {"train": "a", "valid_size": 1, "test_size": 1} if name == "custom" else {}
    with pytest.raises(UserError, match=message) as raised:
        config(name, **files | settings).check()
    assert "\n" not in str(raised.value)


def test_an_unknown_corpus_lists_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"unknown corpus 'nothing'; known: custom, demo, .*ptb, wikitext2, wikitext103"
    ):
        corpus_config({"name": "nothing"})


def test_the_config_of_an_older_run_is_read_with_the_settings_of_all_corpora_in_it() -> None:
    older = {"seed": 1, "train_size": None, "verify": True, "news_commentary": None, "expected_train": 29000}
    for name in ("multi30k", "demo", "custom"):
        assert corpus_config({"name": name, "subword_size": 70, **older}).subword_size == 70  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("iwslt14", "de-en-bpe10000-45be3b19"),
        ("wmt14", "en-de-bpe32764-e15241ba"),
        ("wmt14_fairseq", "en-de-bpe32000-0c69076c"),
        ("multi30k", "de-en-bpe5000-ecf22637"),
        ("demo", "aa-bb-bpe800-4c7ae8a4"),
        ("ptb", "word"),
    ],
)
def test_prepared_corpora_keep_their_folders(name: str, folder: str) -> None:
    assert config(name).variant() == folder


def test_a_bad_archive_is_refused_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, members = tmp_path / "mirror" / ARCHIVE, iwslt_members()
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(archive.parent))
    settings, root = config("iwslt14", **SMALL), tmp_path / "data"

    def refused(message: str, settings: ParallelCorpus = settings) -> None:
        with pytest.raises(UserError, match=message) as raised:
            prepare(settings, root, quiet)
        assert str(archive) in str(raised.value) or "sha256" in str(raised.value)
        assert not [path for path in tree(root) if not path.endswith(".lock")]

    tar(archive, members)
    archive.write_bytes(archive.read_bytes()[:-300])
    refused("truncated or no .tgz archive")
    archive.write_bytes(b"<html>not found</html>")
    refused("truncated or no .tgz archive")
    tar(archive, {name: data for name, data in members.items() if "tst2011" not in name})
    refused(
        r"not the published archive: it has no IWSLT14\.TED\.tst2011\.de-en\.de\.xml, IWSLT14\.TED\.tst2011\.de-en\.en"
    )
    tar(archive, members | {"de-en/train.tags.de-en.de": b"one line\n"})
    refused("has 1 lines and .* has 62")
    tar(archive, members | {"de-en/train.tags.de-en.de": b"good\n\xe4\n"})
    refused(r"train\.tags\.de-en\.de, line 2: not UTF-8")
    tar(archive, members)
    refused("15 pairs, not the published 6,750", config("iwslt14", subword_size=40))
    monkeypatch.setattr(type(settings), "PUBLISHED", {"test": 15})
    refused("not the published IWSLT14 test set", config("iwslt14", subword_size=40))
    assert prepare(settings, root, quiet).manifest["counts"]["test"]["pairs"] == 15


def multi30k(folder: Path) -> Path:
    """Write files of Multi30k's names, with other text."""
    made = stranger(folder.parent / "made", 120, val=11, **dict(zip(TEST_PARTS.values(), (5, 4, 2, 3), strict=True)))
    folder.mkdir(parents=True)
    for path in made.iterdir():
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    return folder


def test_files_put_there_by_hand_stay_and_what_was_fetched_goes_when_it_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, raw = multi30k(tmp_path / "mirror" / "multi30k"), tmp_path / "multi30k" / "raw"
    raw.mkdir(parents=True)
    shutil.copy(mirror / "val.de.gz", raw)  # by hand
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(mirror))
    with pytest.raises(UserError, match=r"mirror/multi30k/train\.de\.gz is not the published Multi30k text"):
        prepare(config("multi30k", subword_size=40), tmp_path, quiet)
    assert [path.name for path in raw.iterdir()] == ["val.de.gz"]
    with pytest.raises(UserError, match=r"no training pair is left of .*; 120 training pairs over length 1"):
        prepare(config("multi30k", **SMALL, max_length=1), tmp_path, quiet)
    assert tree(raw) == tree(mirror)  # a wrong setting is not the fault of the files
    monkeypatch.delenv("NORMPLUGINS_MIRROR")
    with pytest.raises(UserError, match=r"raw/train\.de\.gz is not the published Multi30k text"):
        prepare(config("multi30k", subword_size=40), tmp_path, quiet)
    assert tree(raw) == tree(mirror)


def test_multi30k_is_verified_by_its_text_and_each_time_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = multi30k(tmp_path / "multi30k" / "raw")
    unverified = prepare(config("multi30k", **SMALL), tmp_path, quiet)
    with pytest.raises(UserError, match="not the published Multi30k text"):
        prepare(config("multi30k", subword_size=40), tmp_path, quiet)
    texts = {path.name.removesuffix(".gz"): gzip.decompress(path.read_bytes()) for path in raw.iterdir()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in texts.items()}
    assert digests.keys() == TEXT_SHA256.keys()
    monkeypatch.setattr("normplugins.corpora.multi30k.TEXT_SHA256", digests)  # the published text is not ours to commit
    monkeypatch.setattr(type(config("multi30k")), "PUBLISHED", {"test": 14})
    for name, data in texts.items():
        (raw / f"{name}.gz").write_bytes(gzip.compress(data, compresslevel=1))
    assert prepare(config("multi30k", subword_size=40), tmp_path, quiet).folder == unverified.folder


def test_multi30k_is_tested_on_all_its_test_sets_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = multi30k(tmp_path / "mirror" / "multi30k")
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(mirror.parent))
    prepared = prepare(config("multi30k", **SMALL), tmp_path / "data", quiet)
    sets = {"flickr2016": 5, "flickr2017": 4, "mscoco2017": 2, "flickr2018": 3}
    assert list(prepared.manifest["test_sets"].items()) == list(sets.items())
    assert prepared.manifest["note"] == "120 of 29,000 train pairs, 11 of 1,014 valid pairs, 14 of 3,532 test pairs"
    texts = [gzip.decompress((mirror / f"{part}.en.gz").read_bytes()).decode() for part in TEST_PARTS.values()]
    assert [len(text.splitlines()) for text in texts] == list(sets.values())
    expected = [" ".join(line.split()) for text in texts for line in text.splitlines()]
    assert lines(prepared.reference_text) == expected
    monkeypatch.delenv("NORMPLUGINS_MIRROR")
    shutil.rmtree(mirror)
    assert prepare(config("multi30k", **SMALL), tmp_path / "data", quiet) == prepared  # nothing is fetched again


@pytest.mark.parametrize("limit", [700, 3000, 4300])  # bytes: less than a file of bin, tokenized and subword
def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(tmp_path: Path, limit: int) -> None:
    folder, root = stranger(tmp_path / "c"), tmp_path / "data"
    whole = tree(prepare(custom(folder), tmp_path / "fresh", quiet).folder)
    if limit == 700:
        shutil.rmtree(prepare(custom(folder), root, quiet).bin_dir)

    def prepare_on_a_full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        prepare(custom(folder), root, quiet)

    with pytest.raises(UserError, match=r"^no space left to write .*: free some") as raised:
        call_in_subprocess(prepare_on_a_full_disk)
    assert "\n" not in str(raised.value)
    stages = [path for path in (root / "custom").rglob("*") if path.is_dir() and path.parent.name.startswith("de-en")]
    assert all((stage / "stage.json").is_file() for stage in stages)
    assert tree(prepare(custom(folder), root, quiet).folder) == whole


POINTS = {
    "the third chunk of tokens": (r"os.rename .*\.tokenized.*progress", 8, "going on after 30 pairs"),
    "all tokens": (r"os.rename \S*\.tokenized\S*tmp \S*/tokenized", 1, "going on after 98 pairs"),
    "learning": (r"open .*\.codes", 1, ""),
    "the second chunk of subwords": (r"os.rename .*\.subword.*progress", 3, "going on after 10 pairs"),
    "binarizing": (r"open .*test\.de-en\.de\.idx", 1, "binarizing"),
    "the manifest": (r"os.rename .*corpus\.json", 1, ""),
}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.slow
def test_killed_in_any_stage_the_same_command_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    settings = custom(stranger(tmp_path / "c"))
    whole = tree(prepare(settings, tmp_path / "fresh", quiet).folder)
    for point, (event, count, told) in POINTS.items():
        root, said = tmp_path / point.replace(" ", "-"), list[str]()
        kill_at(event, count, lambda root=root: prepare(settings, root, quiet, workers=2))
        prepared = prepare(settings, root, said.append, workers=2)
        assert tree(prepared.folder) == whole, point
        assert told in "\n".join(said), point


@pytest.mark.usefixtures("small_chunks")
def test_what_a_killed_call_left_is_not_mixed_with_other_text(tmp_path: Path) -> None:
    folder, root, said = stranger(tmp_path / "c"), tmp_path / "data", list[str]()
    kill_at(*POINTS["the third chunk of tokens"][:2], lambda: prepare(custom(folder), root, quiet))
    (folder / "train.de").write_bytes((folder / "train.de").read_bytes().replace(b"Haus", b"Heim"))
    prepared = prepare(custom(folder), root, said.append)
    assert "going on" not in "\n".join(said)
    assert tree(prepared.folder) == tree(prepare(custom(folder), tmp_path / "fresh", quiet).folder)


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    folder, root, said = stranger(tmp_path / "c"), tmp_path / "data", list[str]()
    context = multiprocessing.get_context("fork")
    held, let_go = context.Event(), context.Event()

    def hold() -> None:
        with hold_lock(root / "custom" / ".lock", quiet):
            held.set()
            let_go.wait()

    def echo(line: str) -> None:
        said.append(line)
        if "waiting" in line:
            let_go.set()

    first = context.Process(target=hold)
    first.start()
    held.wait()
    prepare(custom(folder), root, echo)
    first.join()
    assert said[0] == f"waiting for process {first.pid}, which prepares {root / 'custom'}"
