"""A new corpus is one class: found by its name, with its own settings, read by its own method; and other addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from normplugins.corpora import CORPORA, ParallelCorpus, PreparedCorpus, corpus_config, prepare, register
from normplugins.corpora.parallel import Bitext
from normplugins.runs.compose import compose_config
from normplugins.utils.errors import UserError
from normplugins.utils.settings import setting
from tests.helpers.corpora import config, quiet, sentences


@dataclass
class Shouted(ParallelCorpus):
    name: str = "shouted"
    volume: int = setting(1, "exclamation marks behind each sentence", minimum=1)

    def read(self, files: Mapping[str, Path]) -> Bitext:
        pairs = [
            (f"{de}{' !' * self.volume}", f"{en}{' !' * self.volume}") for de, en in zip(*sentences(80), strict=True)
        ]
        return Bitext(pairs[:60], pairs[60:62], {"train": ("shouted.de", "shouted.en")}, pairs[62:64])


@pytest.mark.slow
def test_a_corpus_of_another_package_is_composed_checked_and_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CORPORA, "shouted", Shouted)  # removes it at the end
    register(Shouted)
    composed = compose_config("demo", ["corpus=shouted", "corpus.volume=2", "corpus.subword_size=40"])
    assert composed.variant == "ln,corpus.subword_size=40,corpus.volume=2,corpus=shouted"
    prepared = prepare(corpus_config(composed.corpus), tmp_path, quiet)
    assert isinstance(prepared, PreparedCorpus)
    line = (prepared.folder / "tokenized" / "test.en").read_text(encoding="utf-8").splitlines()[0]
    assert line.endswith(". ! !")
    with pytest.raises(UserError, match=r"corpus\.volume is 0, but must be at least 1"):
        corpus_config({"name": "shouted", "volume": 0}).check()


@pytest.mark.parametrize("url", ["https://host/files/", "https://host/files/wikitext-2-v1.zip"])
def test_another_address_takes_the_place_of_the_published_ones(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr("normplugins.corpora.base.fetch", lambda name, addresses, *_: asked.append(addresses))
    config("wikitext2", url=url).fetch_files(Path("raw"), quiet)
    assert asked == [["https://host/files/wikitext-2-v1.zip"]]


@pytest.mark.parametrize("name", ["iwslt14", "multi30k", "ptb", "wikitext2", "wmt14"])
def test_a_published_file_has_several_addresses_and_all_are_passed_on(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[str]] = {}
    monkeypatch.setattr("normplugins.corpora.base.fetch", lambda file, addresses, *_: asked.update({file: addresses}))
    corpus = config(name)
    corpus.fetch_files(Path("raw"), quiet)
    assert asked == {file: [*addresses] for file, addresses in corpus.addresses().items()}
    assert all(len({*addresses}) > 1 for addresses in asked.values())
