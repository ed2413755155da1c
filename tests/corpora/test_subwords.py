"""Published BPE codes in place of learnt ones: what they make of canonical tokens, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from normplugins.corpora import CorpusConfig, prepare
from normplugins.utils.download import find_in_mirror
from normplugins.utils.errors import UserError
from normplugins.utils.files import read_lines, sha256, write_lines
from tests.helpers.corpora import config, quiet, stranger, tree

BESIDE = Path(__file__).parents[3] / "shared" / "data"
CODES = "#version: 0.2\nH a\nHa u\nHau s</w>\n"


@pytest.fixture
def custom(tmp_path: Path) -> CorpusConfig:
    """A corpus of one's own, its subwords by three merges in a file beside it."""
    folder = stranger(tmp_path / "text", valid=10, test=10)
    (tmp_path / "three.codes").write_text(CODES, encoding="utf-8")
    prefixes = {split: str(folder / split) for split in ("train", "valid", "test")}
    return config("custom", **prefixes, codes=str(tmp_path / "three.codes"), subword_size=3, lowercase=False)


def changed(settings: CorpusConfig, **overrides: object) -> CorpusConfig:
    return CorpusConfig.from_mapping(vars(settings) | overrides)


def test_given_codes_are_taken_and_named_by_their_content(custom: CorpusConfig, tmp_path: Path) -> None:
    prepared = prepare(custom, tmp_path / "data", quiet)
    found = {word for line in read_lines(prepared.folder / "subword" / "train.de") for word in line.split()}
    assert {piece for piece in found if piece.startswith("Ha")} == {"Haus"}
    assert {"g@@", "r@@"} <= found  # groß, in letters
    assert prepared.manifest["sha256"]["subword/codes"] == prepared.manifest["settings"]["codes"]
    assert prepared.manifest["settings"]["codes"] == sha256(tmp_path / "three.codes")
    assert prepared.manifest["subword"]["size"] == prepared.manifest["subword"]["learned"] == 3
    assert prepared.folder.name.startswith("de-en-bpe3-")

    again = changed(custom, codes=str((tmp_path / "three.codes").rename(tmp_path / "other.codes")), subword_min_count=2)
    before = tree(prepared.folder)
    assert prepare(again, tmp_path / "data", quiet).folder == prepared.folder
    assert tree(prepared.folder) == before
    (tmp_path / "other.codes").write_text(CODES.replace("Hau s", "u n"), encoding="utf-8")
    assert again.variant() != prepared.folder.name
    assert changed(custom, codes=None).variant() != prepared.folder.name


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        (None, {}, r"^corpus\.codes: there is no file \S+three\.codes$"),
        (CODES, {"subword": "sentencepiece"}, r"corpus\.codes is a file of BPE codes, and changes nothing about sent"),
        (CODES, {"subword_size": 4}, r"three\.codes \(corpus\.codes\) has 3 merges, .*: set corpus\.subword_size=3$"),
        ("", {}, r"three\.codes is no file of BPE codes as subword-nmt writes them: line 1 is not '#version: 0\.2'"),
        ("H a\nHa u\nHau s</w>\n", {}, r"line 1 is not '#version: 0\.2'"),
        ("#version: 0.2\nH a\nHau\nu n\n", {}, r"three\.codes is no file of BPE codes .*: line 3 is not two pieces"),
        ("#version: 0.2\nH a\nHau \nu n\n", {}, r"line 3 is not two pieces"),
        ("#version: 0.2\nH a\nHa u s\nu n\n", {}, r"line 3 is not two pieces"),
    ],
)
def test_what_is_no_file_of_codes_or_does_not_fit_is_refused(
    custom: CorpusConfig, tmp_path: Path, content: str | None, overrides: dict[str, object], message: str
) -> None:
    path = tmp_path / "three.codes"
    path.unlink() if content is None else path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as raised:
        prepare(changed(custom, **overrides), tmp_path / "data", quiet)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "data").exists()


def test_a_corpus_without_given_codes_keeps_its_folder() -> None:
    assert config("iwslt14").variant() == "de-en-bpe10000-45be3b19"


def test_the_published_codes_make_the_published_subwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """IWSLT14's canonical validation and test set: their tokens, split, are the given files line for line."""
    if "NORMPLUGINS_MIRROR" not in os.environ and BESIDE.is_dir():
        monkeypatch.setenv("NORMPLUGINS_MIRROR", str(BESIDE))
    names = [f"{split}.bpe10000.{language}.gz" for split in ("valid", "test") for language in ("de", "en")]
    found = {name: find_in_mirror(name, "iwslt14") for name in ("bpe10000.codes", *names)}
    if missing := [name for name, path in found.items() if path is None]:
        pytest.skip(f"no {missing[0]}: neither NORMPLUGINS_MIRROR nor {BESIDE} has it")
    published = {name: read_lines(path) for name, path in found.items() if path and name in names}
    for name, lines in published.items():
        split, _, language, _ = name.split(".")
        write_lines(tmp_path / f"{split}.{language}", (line.replace("@@ ", "") for line in lines))
    prefixes = {split: str(tmp_path / split) for split in ("valid", "test")} | {"train": str(tmp_path / "valid")}
    settings = config("custom", **prefixes, tokenizer="given", codes=str(found["bpe10000.codes"]), subword_size=10000)
    prepared = prepare(settings, tmp_path / "data", quiet)
    counts = {split: count["pairs"] for split, count in prepared.manifest["counts"].items()}
    assert (counts["valid"], counts["test"]) == (7283, 6750)
    for name, lines in published.items():
        split, _, language, _ = name.split(".")
        assert read_lines(prepared.folder / "subword" / f"{split}.{language}") == lines
