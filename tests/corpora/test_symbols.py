"""Text that holds symbols of fairseq's dictionary or marks of subwords is kept as text or refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from normplugins.corpora import ParallelCorpus, prepare, remove_subwords
from normplugins.utils.errors import UserError
from normplugins.utils.files import read_lines
from tests.helpers.corpora import custom, quiet, write_user_corpus

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "@@", "▁"]


def with_lines(folder: Path, split: str, lines: list[str], settings: dict[str, object]) -> ParallelCorpus:
    """A corpus of files whose source lines from the third on are ``lines``."""
    write_user_corpus(folder, valid=9, test=20)
    source = read_lines(folder / f"{split}.de")
    source[2 : 2 + len(lines)] = lines
    (folder / f"{split}.de").write_text("\n".join(source) + "\n", encoding="utf-8")
    files = {"valid": str(folder / "valid"), "test": str(folder / "test"), "valid_size": None, "test_size": None}
    return custom(folder, **files, **settings)


@pytest.mark.parametrize(
    ("split", "symbol"),
    [
        *(("train", symbol) for symbol in ("<s>", "<PAD>", "</s>", "<unk>", "a@@", "x<pad>")),
        ("valid", "<s>"),
        ("test", "a@@"),
    ],
)
def test_tokens_that_bpe_would_leave_a_symbol_are_refused(tmp_path: Path, split: str, symbol: str) -> None:
    corpus = with_lines(tmp_path, split, [f"a {symbol} b"], {"tokenizer": "given"})
    with pytest.raises(UserError, match=rf"{split}\.de, line 3: \S+ would be read as a symbol") as raised:
        prepare(corpus, tmp_path / "data", quiet)
    assert "\n" not in str(raised.value)


def test_raw_text_with_symbols_is_kept_as_text_by_moses(tmp_path: Path) -> None:
    lines = [line for symbol in SYMBOLS for line in (f"Das {symbol} Haus", symbol, f"{symbol} Haus </s>")]
    prepared = prepare(with_lines(tmp_path, "test", lines, {}), tmp_path / "data", quiet)
    split = read_lines(prepared.folder / "subword" / "test.de")
    assert not set(" ".join(split).split()) & set(SYMBOLS[:4])
    tokens = read_lines(prepared.folder / "tokenized" / "test.de")
    assert [remove_subwords(line, "bpe") for line in split] == tokens
    assert len(tokens) == 20


def test_sentencepiece_keeps_all_but_its_mark_and_padding(tmp_path: Path) -> None:
    sentencepiece = {"subword": "sentencepiece", "subword_size": 50}
    lines = [f"das {symbol} haus" for symbol in ("<s>", "</s>", "<unk>", "@@")]
    prepared = prepare(with_lines(tmp_path, "train", lines, sentencepiece), tmp_path / "data", quiet)
    split = read_lines(prepared.folder / "subword" / "train.de")
    assert {*lines} <= {remove_subwords(line, "sentencepiece") for line in split}
    assert not set(" ".join(split).split()) & set(SYMBOLS[:4])
    with pytest.raises(UserError, match=r"train\.de, line 3: ▁ would be read .* or set corpus\.subword=bpe"):
        prepare(with_lines(tmp_path, "train", ["das ▁ haus"], sentencepiece), tmp_path / "data", quiet)


def test_a_line_of_drawn_pairs_is_named_by_its_number_in_the_file(tmp_path: Path) -> None:
    corpus = with_lines(tmp_path, "train", ["a <pad> b"], {"tokenizer": "given"})
    lines = read_lines(tmp_path / "train.de")
    (tmp_path / "train.de").write_text("\n".join(["", *lines[1:]]) + "\n", encoding="utf-8")
    drawn = custom(tmp_path, tokenizer="given", seed=3)
    assert corpus != drawn
    with pytest.raises(UserError, match=r"train\.de, line 3: <pad> would be read"):
        prepare(drawn, tmp_path / "data", quiet)
