"""Settings of parallel corpora: what is refused, and the folders that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from normplugins.corpora import corpus_config, prepare
from normplugins.utils.errors import UserError
from tests.helpers.corpora import config, custom, quiet, write_user_corpus


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test_size": 200}, "too few to draw"),
        ({"max_length": 1}, r"no training pair is left in .*train\.de and .*; 98 training pairs over length 1 dropped"),
        ({"subword": "sentencepiece", "subword_size": 100000}, "SentencePiece cannot learn 100000 pieces"),
    ],
)
def test_settings_that_the_text_does_not_allow_are_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(custom(write_user_corpus(tmp_path / "c"), **settings), tmp_path / "data", quiet)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("custom", {"subword": "words"}, "unknown corpus.subword 'words'; known: bpe, sentencepiece"),
        ("custom", {"tokenizer": "mosses"}, "unknown corpus.tokenizer"),
        ("custom", {"valid_size": None}, "no valid set"),
        ("custom", {"valid": "dev"}, "corpus: valid and valid_size are different ways to give the valid set"),
        ("custom", {"test_size": 0}, "corpus.test_size is 0, but must be at least 1"),
        ("custom", {"train": None}, "custom needs corpus.train=PREFIX"),
        ("custom", {"train": None, "train_source": "a.txt"}, "the other side is not"),
        ("custom", {"train_target": "q.en"}, "corpus: train and train_target are different ways to give the train set"),
        ("custom", {"target": "de"}, "both 'de'"),
        ("custom", {"source": False}, r"corpus.source is False, but must be text \(quote it in YAML: 'no'\)"),
        ("custom", {"subword": "sentencepiece", "subword_min_count": 2}, "subword_min_count is for BPE and has"),
        ("custom", {"tokenizer": "given", "clean_punctuation": True}, "corpus.clean_punctuation is for raw text"),
        ("iwslt14", {"source": "fr"}, "iwslt14 is de-en or en-de, not fr-en"),
        ("iwslt14", {"valid_every": None}, "corpus.valid_every needs a value: every n-th clean training pair"),
        ("multi30k", {"length_in": "subwords"}, "unknown corpus setting length_in; known: "),
        ("wmt14", {"news_commentary": "v11"}, "unknown corpus.news_commentary 'v11'; known: v9, v12"),
        ("demo", {"merges": 3}, r"unknown corpus setting merges; known: name, source, .*subword_size"),
    ],
)
def test_settings_that_do_not_fit_a_corpus_are_refused(name: str, settings: dict[str, object], message: str) -> None:
    files = {"train": "a", "valid_size": 1, "test_size": 1} if name == "custom" else {}
    with pytest.raises(UserError, match=message) as raised:
        config(name, **files | settings).check()
    assert "\n" not in str(raised.value)


def test_an_unknown_corpus_lists_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"unknown corpus 'nothing'; known: custom, .*demo, .*ptb, wikitext2, wikitext103"
    ):
        corpus_config({"name": "nothing"})


def test_the_config_of_an_older_run_is_read_with_the_settings_of_all_corpora_in_it() -> None:
    older = {"seed": 1, "train_size": None, "verify": True, "length_in": "words", "expected_train": 29000}
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
