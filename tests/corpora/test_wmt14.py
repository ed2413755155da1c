"""WMT14 from archives of the upstream layout: what is made of them, and refused about them."""

from __future__ import annotations

import hashlib
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from normplugins.corpora import ParallelCorpus, prepare, wmt14
from normplugins.utils.errors import UserError
from normplugins.utils.files import read_lines
from tests.helpers.corpora import (
    WMT14_PAIRS,
    config,
    quiet,
    sentences,
    tar,
    text,
    tree,
    wmt14_members,
    write_wmt14,
)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normplugins.corpora.split_writer.CHUNK", 30)


def small(preset: str = "wmt14", **overrides: object) -> ParallelCorpus:
    return config(preset, **{"subword_size": 60, "verify": False} | overrides)


def test_by_default_the_text_is_what_the_released_script_makes(tmp_path: Path) -> None:
    files = wmt14_members()
    part = files["training-parallel-commoncrawl.tgz"]
    lengths = {"en": ["word " * 80, "word " * 81, "word " * 9, "word " * 10, ""]}
    lengths["de"] = ["Wort " * 80, "Wort " * 80, "Wort", "Wort", "leer"]
    part["commoncrawl.de-en.en"] += text(["A „soft\u00adly“ well-kept  house ,\u2028 “isn’t it”?", *lengths["en"]])
    part["commoncrawl.de-en.de"] += text(["Ein gut-gepflegtes «Haus»…", *lengths["de"]])
    for language, line in (("en", "It’s „soft\u00adly“ well-kept"), ("de", "Ein’s «gut-gepflegtes»")):
        files["dev.tgz"][f"dev/newstest2013.{language}"] += text([line])
    prepared = prepare(small(), write_wmt14(tmp_path, files), quiet)
    tokens = prepared.folder / "tokenized"
    # all three parts, one after the other, cased
    assert read_lines(tokens / "train.de")[0] == sentences(WMT14_PAIRS, 0)[0][0].replace(",", " ,").replace(".", " .")
    english, german = (
        read_lines(tokens / f"train.{language}")[2 * WMT14_PAIRS : -WMT14_PAIRS] for language in ("en", "de")
    )
    # punctuation made plain, a blank in place of what does not print, hyphens split
    assert english[0] == "A &quot; soft ly &quot; well @-@ kept house , &quot; isn &apos;t it &quot; ?"
    assert german[0] == "Ein gut @-@ gepflegtes &quot; Haus &quot; ..."
    assert [len(line.split()) for line in english[1:]] == [80, 9]
    # validation text is cleaned as training text is
    assert read_lines(tokens / "valid.en")[-1] == "It &apos;s &quot; soft ly &quot; well @-@ kept"
    assert read_lines(tokens / "valid.de")[-1] == "Ein &apos; s &quot; gut @-@ gepflegtes &quot;"  # as German has it
    # the test set: its own apostrophes, made straight; in the reference text as written
    assert read_lines(tokens / "test.en")[0] == "en it &apos;s a well @-@ kept test &amp; no more than it &apos;s"
    assert read_lines(prepared.reference_text)[0] == "de it’s a well-kept test & no more than it’s"
    assert read_lines(tokens / "source.text.en")[0] == "en it’s a well-kept test & no more than it’s"
    # scored with hyphens whole, as released
    joined = [line.replace(" @-@ ", "-") for line in read_lines(tokens / "test.de")]
    assert read_lines(prepared.reference_tokens) == joined != read_lines(tokens / "test.de")
    assert prepared.to_tokens(read_lines(tokens / "test.de")) == joined
    counts = {split: count["pairs"] for split, count in prepared.manifest["counts"].items()}
    assert counts == {"train": 3 * WMT14_PAIRS + 3, "valid": 7, "test": 5}
    assert prepared.manifest["notes"] == [
        "1 training pairs with an empty side dropped",
        "2 training pairs over length 80 or ratio 9.0 dropped",
    ]
    assert prepared.manifest["note"] == "7 of 3,000 valid pairs, 5 of 3,003 test pairs"
    assert "training-parallel-nc-v12.tgz" in prepared.manifest["inputs"]


def test_as_fairseq_has_it_punctuation_and_hyphens_stay(tmp_path: Path) -> None:
    files = wmt14_members("v9")
    part = files["training-parallel-commoncrawl.tgz"]
    part["commoncrawl.de-en.en"] += text(["A „well-kept“ house"])
    part["commoncrawl.de-en.de"] += text(["Ein „gut-gepflegtes“ Haus"])
    prepared = prepare(small("wmt14_fairseq"), write_wmt14(tmp_path, files), quiet)
    (added,) = read_lines(prepared.folder / "tokenized" / "train.en")[2 * WMT14_PAIRS : -WMT14_PAIRS]
    assert added == "A „ well-kept “ house"
    assert {"well-kept", "’"} <= set(read_lines(prepared.reference_tokens)[0].split())


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "broken off": (
        lambda raw: (path := raw / "training-parallel-nc-v12.tgz").write_bytes(path.read_bytes()[:-40]),
        r"nc-v12\.tgz cannot be read as a \.tgz or \.zip archive",
    ),
    "one bit": (
        lambda raw: flip(raw / "training-parallel-commoncrawl.tgz"),
        r"commoncrawl\.tgz cannot be read as a \.tgz or \.zip archive",
    ),
    "one side longer": (
        lambda raw: tar(
            raw / "training-parallel-nc-v12.tgz",
            {f"news-commentary-v12.de-en.{language}": b"a\n" * n for n, language in ((2, "de"), (5, "en"))},
        ),
        r"v12\.tgz:news-commentary-v12\.de-en\.en has 5 lines and \S*v12\.tgz:news-commentary-v12\.de-en\.de has 2:",
    ),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # of the checksum: the text itself is whole
    path.write_bytes(data)


@pytest.mark.parametrize("name", SPOILT)
def test_a_bad_archive_is_named_and_the_good_ones_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    spoil, message = SPOILT[name]
    mirror = write_wmt14(tmp_path / "mirror", wmt14_members()) / "wmt14"
    spoil(mirror / "raw")
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(mirror))
    with pytest.raises(UserError, match=message) as raised:
        prepare(small(), tmp_path / "data", quiet)
    assert "\n" not in str(raised.value)
    kept = tree(tmp_path / "data" / "wmt14" / "raw")
    assert kept.items() <= tree(mirror / "raw").items()
    assert len(kept) == {"broken off": 2, "one bit": 1, "one side longer": 5}[name]  # those before the damaged one


def test_a_mirror_may_pack_the_files_as_zip(tmp_path: Path) -> None:
    members = wmt14_members()
    for root in ("tgz", "zip"):
        write_wmt14(tmp_path / root, members)
    for name, files in members.items():
        with zipfile.ZipFile(tmp_path / "zip" / "wmt14" / "raw" / name, "w", zipfile.ZIP_DEFLATED) as packed:
            for member, content in files.items():
                packed.writestr(member, content)
    one, other = (prepare(small(), tmp_path / root, quiet) for root in ("tgz", "zip"))
    texts = {name: data for name, data in tree(one.folder).items() if not name.endswith(".json")}
    assert texts.items() <= tree(other.folder).items()


def test_another_test_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = write_wmt14(tmp_path / "mirror", wmt14_members()) / "wmt14"
    message = r"newstest2014-deen-src\.en\.sgm is not the published newstest2014 of 3,003 lines: its sha256 is "
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NORMPLUGINS_MIRROR", str(mirror))
        with pytest.raises(UserError, match=f"mirror/.*{message}"):
            prepare(small(verify=True), tmp_path, quiet)
    assert len(tree(tmp_path / "wmt14" / "raw")) == 4
    write_wmt14(tmp_path, wmt14_members())
    with pytest.raises(UserError, match=message):
        prepare(small(verify=True), tmp_path, quiet)
    raw = [sentences(5, 8)[side] for side in (1, 0)]
    for language, side in zip(("en", "de"), raw, strict=True):
        side[0] = f"{language} it’s a well-kept test & no more than it’s"
        monkeypatch.setitem(wmt14.TEST_SHA256, language, hashlib.sha256(text(side)).hexdigest())
    with pytest.raises(UserError, match="the test set of wmt14 has 5 pairs, not the published 3,003"):
        prepare(small(verify=True), tmp_path, quiet)
    monkeypatch.setattr(wmt14.Wmt14, "PUBLISHED", {"test": 5})
    assert prepare(small(verify=True), tmp_path, quiet).manifest["counts"]["test"]["pairs"] == 5


@pytest.mark.slow
def test_the_text_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normplugins.corpora.split_writer.CHUNK", 6)
    line = " ".join(["x" * 480] * 25) + " .\n"  # long words, tokens already: many bytes, little work

    def write(count: int) -> Path:
        files = wmt14_members("v9")
        for language in ("de", "en"):
            files["training-parallel-commoncrawl.tgz"][f"commoncrawl.de-en.{language}"] = line.encode() * count
        return write_wmt14(tmp_path / str(count), files)

    corpus = small("wmt14_fairseq", max_length=5000, tokenizer="given")
    short, long = write(10), write(630)
    prepare(corpus, short, quiet, workers=1)  # what the first call imports is no text, and slow to trace
    tracemalloc.start()
    try:
        prepare(corpus, long, quiet, workers=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5e6 < 2 * 630 * len(line) / 3
