"""Targets written without blanks: prepared without Moses, scored by a tokenizer that fits, and said so."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import sacrebleu

from normplugins.corpora import PreparedCorpus, prepare
from normplugins.corpora.tokenizer import detokenize
from normplugins.evaluation.bleu import score
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
    (note,) = (note for note in prepared.manifest["notes"] if "blanks" in note)
    assert note.startswith(
        f"{language} is written without blanks: lower-cased in its Latin letters too; not tokenized by"
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
    if find_spec("MeCab") is None:
        with pytest.raises(UserError, match=r"score_tokenizer=ja-mecab needs .*pip install 'sacrebleu\[ja\]'"):
            english_to(tmp_path, "ja")
