"""Published BPE codes in place of learned ones: what they make of canonical tokens, and what is refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from normplugins.corpora import ParallelCorpus, prepare
from normplugins.corpora.subwords import learn, splitter
from normplugins.utils.download import find_in_mirror
from normplugins.utils.errors import UserError
from normplugins.utils.files import read_lines, sha256
from tests.helpers.corpora import config, quiet, tree, write_user_corpus

CODES = "#version: 0.2\nH a\nHa u\nHau s</w>\n"


@pytest.fixture
def custom(tmp_path: Path) -> ParallelCorpus:
    """A custom corpus with three BPE merges in a file beside it."""
    folder = write_user_corpus(tmp_path / "text", valid=10, test=10)
    (tmp_path / "three.codes").write_text(CODES, encoding="utf-8")
    prefixes = {split: str(folder / split) for split in ("train", "valid", "test")}
    return config("custom", **prefixes, codes=str(tmp_path / "three.codes"), subword_size=3, lowercase=False)


def test_given_codes_are_taken_and_named_by_their_content(custom: ParallelCorpus, tmp_path: Path) -> None:
    prepared = prepare(custom, tmp_path / "data", quiet)
    found = {word for line in read_lines(prepared.folder / "subword" / "train.de") for word in line.split()}
    assert {piece for piece in found if piece.startswith("Ha")} == {"Haus"}
    assert {"g@@", "r@@"} <= found  # groß, in letters
    assert prepared.manifest["sha256"]["subword/codes"] == prepared.manifest["settings"]["codes"]
    assert prepared.manifest["settings"]["codes"] == sha256(tmp_path / "three.codes")
    assert prepared.manifest["subword"]["size"] == 3
    assert prepared.folder.name.startswith("de-en-bpe3-")

    again = replace(custom, codes=str((tmp_path / "three.codes").rename(tmp_path / "other.codes")), subword_min_count=2)
    before = tree(prepared.folder)
    assert prepare(again, tmp_path / "data", quiet).folder == prepared.folder
    assert tree(prepared.folder) == before
    (tmp_path / "other.codes").write_text(CODES.replace("Hau s", "u n"), encoding="utf-8")
    assert again.variant() != prepared.folder.name
    assert replace(custom, codes=None).variant() != prepared.folder.name


def test_a_byte_order_mark_and_gzip_change_no_codes(custom: ParallelCorpus, tmp_path: Path) -> None:
    expected = prepare(custom, tmp_path / "data", quiet).folder / "subword" / "train.de"
    (tmp_path / "mark.codes").write_text(CODES, encoding="utf-8-sig")
    with gzip.open(tmp_path / "three.codes.gz", "wt", encoding="utf-8") as file:
        file.write(CODES)
    for name in ("mark.codes", "three.codes.gz"):
        found = prepare(replace(custom, codes=str(tmp_path / name)), tmp_path / f"data-{name}", quiet)
        assert read_lines(found.folder / "subword" / "train.de") == read_lines(expected)


def test_sentencepiece_learns_from_long_lines_too(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("ab abc abd\n" * 50 + "zebra quokka " * 500 + "\n", encoding="utf-8")
    learn("sentencepiece", 17, 1, [tmp_path / "text"], tmp_path / "model")
    processor = SentencePieceProcessor(model_proto=(tmp_path / "model").read_bytes())
    assert processor.unk_id() not in processor.encode("zebra quokka")


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        (None, {}, r"^corpus\.codes: there is no file \S+three\.codes$"),
        (CODES, {"subword": "sentencepiece"}, r"corpus\.codes is for BPE and has no effect on sentencepiece"),
        (CODES, {"subword_size": 4}, r"three\.codes \(corpus\.codes\) has 3 merges, .*: set corpus\.subword_size=3$"),
        ("", {}, r"three\.codes is not a file of BPE codes as subword-nmt writes them: line 1 is not '#version: 0\.2'"),
        ("#version: 0.2\nH a\nHau\nu n\n", {}, r"three\.codes is not a file of BPE codes .*: line 3 is not two pieces"),
        ("#version: 0.2\nH a\nHa u s\nu n\n", {}, r"line 3 is not two pieces"),
    ],
)
def test_what_is_no_file_of_codes_or_does_not_fit_is_refused(
    custom: ParallelCorpus, tmp_path: Path, content: str | None, overrides: dict[str, object], message: str
) -> None:
    path = tmp_path / "three.codes"
    path.unlink() if content is None else path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as raised:
        prepare(replace(custom, **overrides), tmp_path / "data", quiet)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "data").exists()


def test_the_published_codes_make_the_published_subwords(real_corpora: Callable[[str, str], Path]) -> None:
    """Tokens of IWSLT14's canonical validation and test set, split, are the published files line for line."""
    codes = real_corpora("bpe10000.codes", "iwslt14")
    split_line = splitter("bpe", codes)
    for name in [f"{split}.bpe10000.{language}.gz" for split in ("valid", "test") for language in ("de", "en")]:
        path = find_in_mirror(name, "iwslt14")
        assert path is not None
        published = read_lines(path)[:1500]
        assert [split_line(line.replace("@@ ", "")) for line in published] == published
