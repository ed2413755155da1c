"""IWSLT14 German-English: TED talks, prepared as in fairseq's published recipe (PowerNorm paper, Table 1)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from normplugins.corpora.archives import read_members, segments
from normplugins.corpora.base import PublishedCorpus, archived, register, verify_digest
from normplugins.corpora.parallel import Bitext, Pair, ParallelCorpus, zip_lines
from normplugins.utils.settings import setting

ARCHIVE = "de-en.tgz"
TRAIN = "train.tags.de-en.{}"
TEST_PARTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
TESTS = [f"IWSLT14.{part}.de-en.{{}}.xml" for part in TEST_PARTS]
MEMBERS = [name.format(side) for name in (TRAIN, *TESTS) for side in ("de", "en")]
# The published test set: 6,750 lines of lower-case Moses tokens.
TEST_SHA256 = {
    "de": "e718c783e33160b7d72af8f733756a466e0d0c016eff8ab624c1b0d1d01cbbdf",
    "en": "4b127beb9050511a3e6209cd837ff36f623a3a423666b32aba6e208b7330cf4c",
}
_NOT_SPEECH = ("<url>", "<talkid>", "<keywords>")
_TITLE_TAG = re.compile(r"</?(?:title|description)>")


@register
@dataclass
class Iwslt14(PublishedCorpus, ParallelCorpus):
    """The archive has no validation set, so every 23rd clean training pair goes into one."""

    FILES: ClassVar = {
        ARCHIVE: [
            f"https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/{ARCHIVE}",
            archived(f"https://wit3.fbk.eu/archive/2014-01/texts/de/en/{ARCHIVE}"),
        ]
    }
    LANGUAGE_PAIRS: ClassVar = (("de", "en"), ("en", "de"))
    PUBLISHED: ClassVar = {"train": 160_239, "valid": 7_283, "test": 6_750}

    name: str = "iwslt14"
    valid_every: int = setting(23, "every n-th clean training pair becomes the validation set", minimum=2)

    def read(self, files: Mapping[str, Path]) -> Bitext:
        """Read training and test pairs from the archive."""
        path, sides = files[ARCHIVE], (self.source, self.target)
        members = read_members(path, MEMBERS)

        def pairs(name: str, text: Callable[[list[str]], list[str]]) -> list[Pair]:
            source, target = (name.format(side) for side in sides)
            where = f"{path}:{source}", f"{path}:{target}"
            return list(zip_lines(text(members[source]), text(members[target]), where))

        test = [pair for name in TESTS for pair in pairs(name, segments)]
        source, target = (TRAIN.format(side) for side in sides)
        where = {
            "train": (f"{path}:{source}", f"{path}:{target}"),
            "test": (f"{path}: test set, {self.source}", f"{path}: test set, {self.target}"),
        }
        return Bitext(pairs(TRAIN, _training_lines), test, where)

    def adapt_test_line(self, line: str) -> str:
        """Replace typographic apostrophes, which the training text does not have."""
        return line.replace("’", "'")

    def check_file(self, path: Path) -> None:
        """Raise UserError for a downloaded archive that is damaged or lacks a file."""
        read_members(path, MEMBERS, discard=True)

    def verify_test(self, test: Sequence[Pair], where: tuple[str, str]) -> None:
        """Raise UserError if the tokenized test set is not the published one.

        With settings that tokenize differently from the recipe, only the number of pairs is compared.
        """
        super().verify_test(test, where)
        if self.verify and self.lowercase and self.resolved_tokenizer == "moses" and not self.split_hyphens:
            for side, language in enumerate((self.source, self.target)):
                lines = (f"{pair[side]}\n".encode() for pair in test)
                verify_digest(where[side], "IWSLT14 test set", lines, TEST_SHA256[language])


def _training_lines(lines: list[str]) -> list[str]:
    """Drop the lines that hold no speech; titles and descriptions are kept without their tags."""
    return [_TITLE_TAG.sub("", line) for line in lines if not any(tag in line for tag in _NOT_SPEECH)]
