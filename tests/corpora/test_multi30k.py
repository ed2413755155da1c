"""Multi30k: verified by its text, with all its test sets, and what happens to bad downloads."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from pathlib import Path

import pytest

from normplugins.corpora import prepare
from normplugins.corpora.multi30k import TEST_PARTS, TEXT_SHA256
from normplugins.utils.errors import UserError
from normplugins.utils.files import read_lines
from tests.helpers.corpora import config, quiet, tree, write_multi30k

SMALL = {"subword_size": 40, "verify": False}


@pytest.mark.slow
def test_fetched_files_that_are_bad_are_removed_and_the_users_own_files_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, raw = write_multi30k(tmp_path / "mirror" / "multi30k"), tmp_path / "multi30k" / "raw"
    raw.mkdir(parents=True)
    shutil.copy(mirror / "val.de.gz", raw)  # by hand
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(mirror))
    with pytest.raises(UserError, match=r"mirror/multi30k/train\.de\.gz is not the published Multi30k text"):
        prepare(config("multi30k", subword_size=40), tmp_path, quiet)
    assert [path.name for path in raw.iterdir()] == ["val.de.gz"]
    with pytest.raises(UserError, match=r"no training pair is left in .*; 120 training pairs over length 1"):
        prepare(config("multi30k", **SMALL, max_length=1), tmp_path, quiet)
    assert tree(raw) == tree(mirror)  # a wrong setting is not the fault of the files
    monkeypatch.delenv("NORMPLUGINS_MIRROR")
    with pytest.raises(UserError, match=r"raw/train\.de\.gz is not the published Multi30k text"):
        prepare(config("multi30k", subword_size=40), tmp_path, quiet)
    assert tree(raw) == tree(mirror)


def test_the_text_is_verified_not_the_compressed_file_and_on_each_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write_multi30k(tmp_path / "multi30k" / "raw")
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


def test_the_test_split_is_all_test_sets_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = write_multi30k(tmp_path / "mirror" / "multi30k")
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(mirror.parent))
    prepared = prepare(config("multi30k", **SMALL), tmp_path / "data", quiet)
    sets = {"flickr2016": 5, "flickr2017": 4, "mscoco2017": 2, "flickr2018": 3}
    assert list(prepared.manifest["test_sets"].items()) == list(sets.items())
    assert prepared.manifest["note"] == "120 of 29,000 train pairs, 11 of 1,014 valid pairs, 14 of 3,532 test pairs"
    texts = [gzip.decompress((mirror / f"{part}.en.gz").read_bytes()).decode() for part in TEST_PARTS.values()]
    assert [len(text.splitlines()) for text in texts] == list(sets.values())
    expected = [" ".join(line.split()) for text in texts for line in text.splitlines()]
    assert read_lines(prepared.reference_text) == expected
    monkeypatch.delenv("NORMPLUGINS_MIRROR")
    shutil.rmtree(mirror)
    assert prepare(config("multi30k", **SMALL), tmp_path / "data", quiet) == prepared  # nothing is fetched again
