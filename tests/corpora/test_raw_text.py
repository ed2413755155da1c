"""A raw line goes through the stages of its corpus, and comes back as plain text."""

import pytest

from normplugins.corpora import prepare
from normplugins.corpora.raw_text import text_pipeline
from tests.helpers.corpora import config, custom, iwslt_members, tar, wmt14_members, write_user_corpus, write_wmt14


def parallel(name, folder):
    if name == "iwslt14":
        tar(folder / "iwslt14" / "raw" / "de-en.tgz", iwslt_members())
        return config("iwslt14", verify=False, subword_size=60)
    if name == "wmt14":
        write_wmt14(folder, wmt14_members())
        return config("wmt14", verify=False, subword_size=60)
    write_user_corpus(folder, 60)
    return custom(folder, subword=name)


@pytest.mark.parametrize("name", ["bpe", "sentencepiece", "iwslt14", "wmt14"])
def test_raw_test_lines_give_the_prepared_test_set(name, tmp_path):
    corpus = parallel(name, tmp_path)
    prepared = prepare(corpus, tmp_path, echo=lambda _: None, workers=1)
    pipeline = text_pipeline(corpus, prepared)
    raw = (prepared.folder / "tokenized" / f"source.text.{corpus.source}").read_text(encoding="utf-8").splitlines()
    expected = (prepared.folder / "subword" / f"test.{corpus.source}").read_text(encoding="utf-8").splitlines()
    assert [" ".join(pipeline.encode(line, "raw", 1)) for line in raw] == expected
    plain = [pipeline.decode(line) for line in expected]
    assert not any(mark in line for line in plain for mark in (";", "@@", "@-@", "▁", " ,"))
    if name in ("bpe", "sentencepiece"):
        assert plain == [line.lower() for line in raw]  # the case is not restored


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_unknown_words_are_named_whole(kind, tmp_path):
    corpus = parallel(kind, tmp_path)
    pipeline = text_pipeline(corpus, prepare(corpus, tmp_path, echo=lambda _: None, workers=1))
    pieces = pipeline.encode("Haus Türe und", "raw", 1)
    odd = next(piece for piece in pieces if "t" in piece)
    assert [word.strip("▁") for word in pipeline.unknown_words(pieces, set(pieces) - {odd})] == ["türe"]
    assert pipeline.unknown_words(pieces, set(pieces)) == []
