"""WMT14 English-German: 4.5 million pairs, read out of the upstream archives as they are unpacked (paper, Table 1)."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from normplugins.corpora.bitext import Bitext, Pair, Pairs, Stream, side_by_side
from normplugins.corpora.settings import CorpusConfig
from normplugins.corpora.sgm import segments, straight
from normplugins.corpora.tokenizer import squeeze
from normplugins.utils.download import fetch
from normplugins.utils.errors import UserError
from normplugins.utils.files import text_lines

LANGUAGES = ("en", "de")
NEWS_COMMENTARY = {
    "v9": "http://statmt.org/wmt14/training-parallel-nc-v9.tgz",
    "v12": "http://data.statmt.org/wmt17/translation-task/training-parallel-nc-v12.tgz",
}
EUROPARL = "http://statmt.org/wmt13/training-parallel-europarl-v7.tgz"
COMMON_CRAWL = "http://statmt.org/wmt13/training-parallel-commoncrawl.tgz"
VALID = "http://data.statmt.org/wmt17/translation-task/dev.tgz"
TEST = "http://statmt.org/wmt14/test-full.tgz"
# newstest2014 as it is written, a line a segment: all 3,003 of them, where other editions have 2,737.
TEST_SHA256 = {
    "en": "7294bccf2879a97b3706b95c9595f1459617a8ee7130d5d8581c910e69736971",
    "de": "ae5d110486bc33d7175e9e28c7d0051eb3e5fcd2166dd93371089852c091a20e",
}
USES = frozenset({"news_commentary"})
_SEGMENT_FILES = {"en": "newstest2014-deen-src.en.sgm", "de": "newstest2014-deen-ref.de.sgm"}
_BLOCK = 1 << 20


def check(config: CorpusConfig) -> None:
    """Raise UserError for settings that this corpus cannot be prepared with."""
    if (config.source, config.target) != LANGUAGES:
        raise UserError(f"wmt14 is English to German: en-de, not {config.source}-{config.target}")
    if config.news_commentary not in NEWS_COMMENTARY:
        raise UserError(
            f"unknown corpus.news_commentary {config.news_commentary!r}; known: {', '.join(NEWS_COMMENTARY)}"
        )


def inputs(config: CorpusConfig, folder: Path, echo: Callable[[str], None]) -> dict[str, Path]:
    """Return the five archives, fetched into ``folder`` if need be; ``url`` is a folder that has them all."""
    files = {}
    for address in (EUROPARL, COMMON_CRAWL, NEWS_COMMENTARY[str(config.news_commentary)], VALID, TEST):
        name = address.rpartition("/")[2]
        files[name] = fetch(name, f"{config.url.rstrip('/')}/{name}" if config.url else address, folder, echo)
    return files


def read(config: CorpusConfig, files: dict[str, Path]) -> Bitext:
    """Read validation and test set; the training pairs are read when asked for, part by part.

    Every archive is unpacked once before that, to nowhere: a bad one shows before an hour of work, not after.
    """
    parts = {
        EUROPARL: "europarl-v7.de-en.{}",
        COMMON_CRAWL: "commoncrawl.de-en.{}",
        NEWS_COMMENTARY[str(config.news_commentary)]: f"news-commentary-{config.news_commentary}.de-en.{{}}",
    }
    train = [(files[address.rpartition("/")[2]], member) for address, member in parts.items()]
    for path, member in train:
        _check(path, [member.format(language) for language in LANGUAGES])
    raw = _held(files["test-full.tgz"], _SEGMENT_FILES, segments)
    if config.verify:
        _verify(raw)
    plain = {language: f"newstest2013.{language}" for language in LANGUAGES}
    valid = _held(files["dev.tgz"], plain, list)
    wheres = [", ".join(f"{path}:{member.format(language)}" for path, member in train) for language in LANGUAGES]

    def pairs() -> Iterator[Pair]:
        for path, member in train:
            names = [member.format(language) for language in LANGUAGES]
            # Opened once for each side: the archive has one after the other.
            sides = [text_lines(_lines(path, name), f"{path}:{name}") for name in names]
            yield from side_by_side(*sides, (f"{path}:{names[0]}", f"{path}:{names[1]}"))

    # Text with clean punctuation has no typographic apostrophe, and the test set has nothing else made clean.
    test = _straight(raw) if config.clean_punctuation else raw
    return Bitext(Stream(pairs, (wheres[0], wheres[1])), test, valid, raw)


def _verify(raw: Pairs) -> None:
    for language, lines in zip(LANGUAGES, (raw.source, raw.target), strict=True):
        found = hashlib.sha256("".join(f"{squeeze(line)}\n" for line in lines).encode()).hexdigest()
        if found != TEST_SHA256[language]:
            raise UserError(
                f"{raw.where[LANGUAGES.index(language)]} is not the published newstest2014 ({len(lines):,} of 3,003 "
                f"lines; sha256 {found}, not {TEST_SHA256[language]}); get the original archive, or set "
                "corpus.verify=false to use this one"
            )


def _held(path: Path, names: dict[str, str], text: Callable[[Iterator[str]], list[str]]) -> Pairs:
    _check(path, list(names.values()))
    wheres = {language: f"{path}:{name}" for language, name in names.items()}
    source, target = (text(text_lines(_lines(path, name), wheres[language])) for language, name in names.items())
    return Pairs(source, target, (wheres[LANGUAGES[0]], wheres[LANGUAGES[1]]))


def _straight(pairs: Pairs) -> Pairs:
    return Pairs(straight(pairs.source), straight(pairs.target), pairs.where)


def _check(path: Path, names: list[str]) -> None:
    """Raise UserError unless the archive can be unpacked to its end and has these files."""
    with _archive(path) as (archive, packed):
        found = {member.name.rpartition("/")[2] for member in archive if member.isfile()}
        while packed.read(_BLOCK):  # to the checksum behind the last byte
            pass
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{path} is not the published archive: it has no {', '.join(missing)}")


def _lines(path: Path, name: str) -> Iterator[bytes]:
    """Yield the lines of one file of an archive, as they are unpacked."""
    with _archive(path) as (archive, _):
        for member in archive:
            if member.isfile() and member.name.rpartition("/")[2] == name and (file := archive.extractfile(member)):
                yield from file
                return


@contextmanager
def _archive(path: Path) -> Iterator[tuple[tarfile.TarFile, gzip.GzipFile]]:
    try:
        with gzip.open(path) as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
            yield archive, packed
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(f"{path} is truncated or no .tgz archive ({error}); get it again") from None
