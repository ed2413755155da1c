"""WMT14 English-German: 4.5 million pairs, streamed from the upstream archives (PowerNorm paper, Table 1)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from normplugins.corpora.archives import iter_member, read_members, segments, straighten_apostrophes
from normplugins.corpora.base import PublishedCorpus, register, verify_digest
from normplugins.corpora.parallel import Bitext, Pair, ParallelCorpus, zip_lines
from normplugins.corpora.tokenizer import squeeze
from normplugins.utils.settings import setting

EUROPARL = "http://statmt.org/wmt13/training-parallel-europarl-v7.tgz"
COMMON_CRAWL = "http://statmt.org/wmt13/training-parallel-commoncrawl.tgz"
NEWS_COMMENTARY = {
    "v9": "http://statmt.org/wmt14/training-parallel-nc-v9.tgz",
    "v12": "http://data.statmt.org/wmt17/translation-task/training-parallel-nc-v12.tgz",
}
VALID = "http://data.statmt.org/wmt17/translation-task/dev.tgz"
TEST = "http://statmt.org/wmt14/test-full.tgz"
VALID_FILES = ("newstest2013.en", "newstest2013.de")
TEST_FILES = ("newstest2014-deen-src.en.sgm", "newstest2014-deen-ref.de.sgm")
# newstest2014 as published, one segment per line: all 3,003 segments, where other editions have 2,737.
TEST_SHA256 = {
    "en": "7294bccf2879a97b3706b95c9595f1459617a8ee7130d5d8581c910e69736971",
    "de": "ae5d110486bc33d7175e9e28c7d0051eb3e5fcd2166dd93371089852c091a20e",
}

_Part = tuple[Path, tuple[str, str]]
"""An archive, and the names of its English and German file."""


@register
@dataclass
class Wmt14(PublishedCorpus, ParallelCorpus):
    """Europarl, Common Crawl and News Commentary; newstest2013 for validation and newstest2014 for the test."""

    LANGUAGE_PAIRS: ClassVar = (("en", "de"),)
    PUBLISHED: ClassVar = {"valid": 3_000, "test": 3_003}

    name: str = "wmt14"
    news_commentary: str = setting("v12", "version of News Commentary", choices=tuple(NEWS_COMMENTARY))

    def published(self) -> Mapping[str, int]:
        """Return the published counts. With v9, train is that of wmt16_en_de_bpe32k, which has News Commentary v11."""
        return self.PUBLISHED if self.news_commentary == "v12" else {"train": 4_500_966, **self.PUBLISHED}

    def addresses(self) -> Mapping[str, str]:
        """Return the addresses of the five archives."""
        archives = (EUROPARL, COMMON_CRAWL, NEWS_COMMENTARY[self.news_commentary], VALID, TEST)
        return {Path(address).name: address for address in archives}

    def read(self, files: Mapping[str, Path]) -> Bitext:
        """Read validation and test set; the training pairs are streamed from one archive after the other.

        Each archive is unpacked once without keeping its text, so that a damaged one is found before an hour of work.
        """
        parts = {
            EUROPARL: "europarl-v7.de-en",
            COMMON_CRAWL: "commoncrawl.de-en",
            NEWS_COMMENTARY[self.news_commentary]: f"news-commentary-{self.news_commentary}.de-en",
        }
        train = [(files[Path(address).name], (f"{part}.en", f"{part}.de")) for address, part in parts.items()]
        valid, test = (files[Path(VALID).name], VALID_FILES), (files[Path(TEST).name], TEST_FILES)
        where = {"train": _where(*train), "valid": _where(valid), "test": _where(test)}
        for path, names in train:
            read_members(path, names, discard=True)
        raw = _read_pairs(test, segments)
        if self.verify:
            for side, (wanted, file) in enumerate(zip(TEST_SHA256.values(), where["test"], strict=True)):
                lines = (f"{squeeze(pair[side])}\n".encode() for pair in raw)
                verify_digest(file, "newstest2014 of 3,003 lines", lines, wanted)

        def train_pairs() -> Iterator[Pair]:
            for path, names in train:  # opened twice: the archive has one side after the other
                english, german = (iter_member(path, name) for name in names)
                yield from zip_lines(english, german, _where((path, names)))

        # Text with normalized punctuation has no typographic apostrophe. The test set is not normalized otherwise.
        change = straighten_apostrophes if self.clean_punctuation else str
        tests = [(change(english), change(german)) for english, german in raw]
        return Bitext(train_pairs(), tests, where, _read_pairs(valid, list), raw_test=raw)


def _where(*parts: _Part) -> tuple[str, str]:
    english, german = (", ".join(f"{path}:{names[side]}" for path, names in parts) for side in (0, 1))
    return english, german


def _read_pairs(part: _Part, text: Callable[[list[str]], list[str]]) -> list[Pair]:
    path, names = part
    members = read_members(path, names)
    english, german = (text(members[name]) for name in names)
    return list(zip_lines(english, german, _where(part)))
