"""WMT14 English-German: 4.5 million pairs, streamed from the upstream archives (PowerNorm paper, Table 1)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from normplugins.corpora.archives import iter_member, read_members, segments
from normplugins.corpora.base import PublishedCorpus, register, verify_digest
from normplugins.corpora.parallel import Bitext, Pair, ParallelCorpus, zip_lines
from normplugins.corpora.tokenizer import squeeze
from normplugins.utils.files import text_lines
from normplugins.utils.settings import setting

_HUGGING_FACE = "https://huggingface.co/datasets/wmt"  # the same files, packed as .zip
EUROPARL, COMMON_CRAWL = "training-parallel-europarl-v7.tgz", "training-parallel-commoncrawl.tgz"
NEWS_COMMENTARY = {version: f"training-parallel-nc-{version}.tgz" for version in ("v9", "v12")}
VALID, TEST = "dev.tgz", "test-full.tgz"
_WMT14, _WMT17 = "http://statmt.org/wmt14", "http://data.statmt.org/wmt17/translation-task"
_PLACES = {  # the publisher's folder of each archive, and the copy at Hugging Face
    EUROPARL: ("http://statmt.org/wmt13", "wmt13/resolve/main-zip/training-parallel-europarl-v7.zip"),
    COMMON_CRAWL: ("http://statmt.org/wmt13", "wmt13/resolve/main-zip/training-parallel-commoncrawl.zip"),
    NEWS_COMMENTARY["v9"]: (_WMT14, "wmt14/resolve/main-zip/training-parallel-nc-v9.zip"),
    NEWS_COMMENTARY["v12"]: (_WMT17, "wmt17/resolve/main-zip/translation-task/training-parallel-nc-v12.zip"),
    VALID: (_WMT17, "wmt19/resolve/main-zip/translation-task/dev.zip"),
    TEST: (_WMT14, "wmt19/resolve/main-zip/translation-task/dev.zip"),  # later years have the test set of 2014 too
}
VALID_FILES = ("newstest2013.en", "newstest2013.de")
TEST_FILES = ("newstest2014-deen-src.en.sgm", "newstest2014-deen-ref.de.sgm")
# newstest2014 as published, one segment per line: all 3,003 segments, where other editions have 2,737.
TEST_SHA256 = {
    "en": "7294bccf2879a97b3706b95c9595f1459617a8ee7130d5d8581c910e69736971",
    "de": "ae5d110486bc33d7175e9e28c7d0051eb3e5fcd2166dd93371089852c091a20e",
}

_Part = tuple[Path, tuple[str, str]]
"""An archive, and the names of its English and German files."""


@register
@dataclass
class Wmt14(PublishedCorpus, ParallelCorpus):
    """Europarl, Common Crawl and News Commentary; newstest2013 for validation and newstest2014 for the test."""

    LANGUAGE_PAIRS: ClassVar = (("en", "de"),)
    PUBLISHED: ClassVar = {"valid": 3_000, "test": 3_003}

    name: str = "wmt14"
    news_commentary: str = setting("v12", "version of News Commentary", choices=tuple(NEWS_COMMENTARY))

    def published(self) -> Mapping[str, int]:
        """Return the published counts; for v9, train is that of wmt16_en_de_bpe32k, which has News Commentary v11."""
        return self.PUBLISHED if self.news_commentary == "v12" else {"train": 4_500_966, **self.PUBLISHED}

    def addresses(self) -> Mapping[str, Sequence[str]]:
        """Return the addresses of the five archives."""
        places = ((archive, *_PLACES[archive]) for archive in self._members())
        return {archive: [f"{folder}/{archive}", f"{_HUGGING_FACE}/{copy}"] for archive, folder, copy in places}

    def check_file(self, path: Path) -> None:
        """Raise UserError for a downloaded archive that is damaged, lacks a file or has another test set."""
        if path.name == TEST:
            self._read_test((path, TEST_FILES))
        else:
            read_members(path, self._members()[path.name], discard=True)

    def _members(self) -> dict[str, tuple[str, str]]:
        """Return the names of the English and German files in each archive, the training text first."""
        train = {
            EUROPARL: "europarl-v7.de-en",
            COMMON_CRAWL: "commoncrawl.de-en",
            NEWS_COMMENTARY[self.news_commentary]: f"news-commentary-{self.news_commentary}.de-en",
        }
        members = {archive: (f"{part}.en", f"{part}.de") for archive, part in train.items()}
        return members | {VALID: VALID_FILES, TEST: TEST_FILES}

    def read(self, files: Mapping[str, Path]) -> Bitext:
        """Read the validation and test sets; the training pairs are streamed from one archive after another.

        Each training archive is unpacked first without keeping its text, to find damage before an hour of work.
        """
        *train, valid, test = ((files[archive], names) for archive, names in self._members().items())
        where = {"train": _where(*train), "valid": _where(valid), "test": _where(test)}
        for path, names in train:
            read_members(path, names, discard=True)

        def train_pairs() -> Iterator[Pair]:
            for path, names in train:  # opened twice, because the archive holds one side after the other
                english, german = (text_lines(iter_member(path, name), f"{path}:{name}") for name in names)
                yield from zip_lines(english, german, _where((path, names)))

        return Bitext(train_pairs(), self._read_test(test), where, _read_pairs(valid, list))

    def _read_test(self, part: _Part) -> list[Pair]:
        """Return the test pairs. Raises UserError for other text, unless ``verify`` is off."""
        pairs = _read_pairs(part, segments)
        if self.verify:
            for side, (wanted, file) in enumerate(zip(TEST_SHA256.values(), _where(part), strict=True)):
                lines = (f"{squeeze(pair[side])}\n".encode() for pair in pairs)
                verify_digest(file, "newstest2014 of 3,003 lines", lines, wanted)
        return pairs

    def adapt_test_line(self, line: str) -> str:
        """Replace typographic apostrophes if punctuation is normalized, because the training text then has none."""
        return line.replace("’", "'") if self.clean_punctuation else line


def _where(*parts: _Part) -> tuple[str, str]:
    english, german = (", ".join(f"{path}:{names[side]}" for path, names in parts) for side in (0, 1))
    return english, german


def _read_pairs(part: _Part, text: Callable[[list[str]], list[str]]) -> list[Pair]:
    path, names = part
    members = read_members(path, names)
    english, german = (text(members[name]) for name in names)
    return list(zip_lines(english, german, _where(part)))
