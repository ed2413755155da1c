"""IWSLT14 German-English: TED talks, prepared as in fairseq's published recipe (PowerNorm paper, Table 1)."""

from __future__ import annotations

import hashlib
import re
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from normplugins.corpora.bitext import Bitext, Pairs
from normplugins.corpora.settings import CorpusConfig
from normplugins.corpora.sgm import segments, straight
from normplugins.utils.download import fetch
from normplugins.utils.errors import UserError
from normplugins.utils.files import decode_lines

ARCHIVE = "de-en.tgz"
LANGUAGES = ("de", "en")
TEST_PARTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
# The published test set: 6,750 lines, lower-cased Moses tokens.
TEST_SHA256 = {
    "de": "e718c783e33160b7d72af8f733756a466e0d0c016eff8ab624c1b0d1d01cbbdf",
    "en": "4b127beb9050511a3e6209cd837ff36f623a3a423666b32aba6e208b7330cf4c",
}
USES = frozenset({"valid_every"})
_DROPPED = ("<url>", "<talkid>", "<keywords>")
_UNWRAPPED = re.compile(r"</?(?:title|description)>")


def check(config: CorpusConfig) -> None:
    """Raise UserError for settings that this corpus cannot be prepared with."""
    if {config.source, config.target} != set(LANGUAGES):
        raise UserError(f"iwslt14 is German-English: de-en or en-de, not {config.source}-{config.target}")
    if not config.valid_every:
        raise UserError("iwslt14 has no validation set of its own: corpus.valid_every=23 makes the published one")


def inputs(config: CorpusConfig, folder: Path, echo: Callable[[str], None]) -> dict[str, Path]:
    """Return the archive, fetched into ``folder`` if need be."""
    return {ARCHIVE: fetch(ARCHIVE, config.url or "", folder, echo)}


def read(config: CorpusConfig, files: dict[str, Path]) -> Bitext:
    """Read training and test pairs out of the archive; the validation set is every 23rd training pair, taken later."""
    path = files[ARCHIVE]
    names = [f"train.tags.de-en.{language}" for language in LANGUAGES]
    names += [f"IWSLT14.{part}.de-en.{language}.xml" for part in TEST_PARTS for language in LANGUAGES]
    members = _members(path, names)
    sides = config.source, config.target

    def pairs(read_side: Callable[[list[str]], list[str]], name: str) -> Pairs:
        wheres = [f"{path}:{name.format(side)}" for side in sides]
        source, target = (
            read_side(decode_lines(members[name.format(s)], w)) for s, w in zip(sides, wheres, strict=True)
        )
        return Pairs(source, target, (wheres[0], wheres[1]))

    train = pairs(_training_lines, "train.tags.de-en.{}")
    parts = [pairs(segments, f"IWSLT14.{part}.de-en.{{}}.xml") for part in TEST_PARTS]
    raw = Pairs(
        [line for part in parts for line in part.source],
        [line for part in parts for line in part.target],
        (f"{path}: test set, {sides[0]}", f"{path}: test set, {sides[1]}"),
    )
    return Bitext(train=train, test=Pairs(straight(raw.source), straight(raw.target), raw.where), raw_test=raw)


def verify(config: CorpusConfig, test: dict[str, list[str]]) -> None:
    """Raise UserError unless the tokenised test set is the published one (checked with the recipe's settings only)."""
    if not config.lowercase or config.text_kind != "moses":
        return
    for language, lines in test.items():
        found = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
        if found != TEST_SHA256[language]:
            raise UserError(
                f"test.{language} is not the published IWSLT14 test set: sha256 {found}, not {TEST_SHA256[language]}; "
                f"get the original {ARCHIVE}, or set corpus.verify=false to use this one"
            )


def _members(path: Path, names: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in names and member.isfile() and (file := archive.extractfile(member)):
                    found[name] = file.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(f"{path} is truncated or no tar archive ({error}); get it again") from None
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{path} is not the IWSLT14 archive: it has no {missing[0]} ({len(missing)} files are missing)")
    return found


def _training_lines(lines: list[str]) -> list[str]:
    """Drop the lines that hold no speech; titles and descriptions stay, without their tags."""
    return [_UNWRAPPED.sub("", line) for line in lines if not any(tag in line for tag in _DROPPED)]
