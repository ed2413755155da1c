"""IWSLT14 from an archive of the published layout: the recipe's text, and bad archives."""

from __future__ import annotations

from pathlib import Path

import pytest

from normplugins.corpora import ParallelCorpus, prepare
from normplugins.corpora.iwslt14 import ARCHIVE
from normplugins.utils.errors import UserError
from normplugins.utils.files import read_lines
from tests.helpers.corpora import config, iwslt_members, quiet, tar, tree

SMALL = {"subword_size": 40, "verify": False}


def test_the_published_recipe_is_followed(tmp_path: Path) -> None:
    said: list[str] = []
    tar(tmp_path / "iwslt14" / "raw" / ARCHIVE, iwslt_members())
    prepared = prepare(config("iwslt14", **SMALL), tmp_path, said.append)
    texts = prepared.folder / "tokenized"
    # 60 sentences, a title and a description; every 23rd of the 62 is validation
    assert {split: counts["pairs"] for split, counts in prepared.manifest["counts"].items()} == {
        "train": 60,
        "valid": 2,
        "test": 15,
    }
    assert read_lines(texts / "train.de")[:2] == ["ein titel , one title", "mit vier worten hier"]
    assert prepared.manifest["note"].startswith("60 of 160,239 train pairs, 2 of 7,283 valid pairs")
    assert any("60 of 160,239 train pairs" in line for line in said)
    # the parts of the test set in order, the apostrophe made straight, lower case; as written in the reference text
    assert read_lines(texts / "test.en")[0] == "ted.dev2010 it &apos;s no. 0 , not u.s ."
    assert [line.split()[0] for line in read_lines(texts / "test.de")[::3]] == [
        "ted.dev2010",
        "tedx.dev2012",
        "ted.tst2010",
        "ted.tst2011",
        "ted.tst2012",
    ]
    assert read_lines(prepared.reference_text)[0] == "TED.dev2010 it’s No. 0, not U.S."
    assert read_lines(prepared.reference_tokens) == read_lines(texts / "test.en")


def test_a_damaged_archive_is_not_taken_and_other_text_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, members = tmp_path / "mirror" / ARCHIVE, iwslt_members()
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(archive.parent))
    settings, root = config("iwslt14", **SMALL), tmp_path / "data"
    raw = root / "iwslt14" / "raw" / ARCHIVE

    def refused(message: str, settings: ParallelCorpus = settings, kept: bool = True) -> None:
        with pytest.raises(UserError, match=message) as raised:
            prepare(settings, root, quiet)
        assert (f"delete {raw} to fetch it again" if kept else str(archive)) in str(raised.value)
        left = {name: data for name, data in tree(root).items() if not name.endswith((".lock", ".hashes.json"))}
        assert left == ({f"iwslt14/raw/{ARCHIVE}": archive.read_bytes()} if kept else {})
        raw.unlink(missing_ok=True)  # so that the next archive is taken

    tar(archive, {name: data for name, data in members.items() if "tst2011" not in name})
    names = r"IWSLT14\.TED\.tst2011\.de-en\.de\.xml, IWSLT14\.TED\.tst2011\.de-en\.en"
    refused(f"not the published archive: it has no {names}", kept=False)
    tar(archive, members | {"de-en/train.tags.de-en.de": b"one line\n"})
    refused("has 1 lines and .* has 62")
    tar(archive, members | {"de-en/train.tags.de-en.de": b"good\n\xe4\n"})
    refused(r"train\.tags\.de-en\.de, line 2: not UTF-8")
    tar(archive, members)
    refused("15 pairs, not the published 6,750", config("iwslt14", subword_size=40))
    monkeypatch.setattr(type(settings), "PUBLISHED", {"test": 15})
    refused("not the published IWSLT14 test set", config("iwslt14", subword_size=40))
    assert prepare(settings, root, quiet).manifest["counts"]["test"]["pairs"] == 15
