"""Moses tokenisation and punctuation through sacremoses, with the rules in which sacremoses differs from Moses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import regex
from sacremoses import MosesDetokenizer, MosesPunctNormalizer, MosesTokenizer

_FINAL_STOP = re.compile(r"(?<=\S)\.$")
_TAG_LINE = re.compile(r"<.+>")
_NON_PRINTING = regex.compile(r"\p{C}")
_NEEDS_NORMALISING = re.compile(r"[^\w .,?!/-]|  ")  # no rule of the punctuation normaliser changes any other line


class _Moses(MosesTokenizer):
    """Moses splits the full stop off the last word of a line, whatever that word is.

    Its non-breaking prefixes (``U.S.``, ``Dr.``, a single letter) protect a full stop only inside a line: at the end
    it closes the sentence. sacremoses protects it there too, which shows on 31 of the 13,500 IWSLT14 test lines.
    """

    def handles_nonbreaking_prefixes(self, text: str) -> str:
        return _FINAL_STOP.sub(" .", super().handles_nonbreaking_prefixes(text))


@lru_cache(maxsize=8)
def _tokenizer(language: str) -> _Moses:
    return _Moses(lang=language)


@lru_cache(maxsize=8)
def _detokenizer(language: str) -> MosesDetokenizer:
    return MosesDetokenizer(lang=language)


@lru_cache(maxsize=8)
def _punctuation_rules(language: str) -> list[tuple[re.Pattern[str], str]]:
    rules = MosesPunctNormalizer(lang=language, perl_parity=True).substitutions
    return [(re.compile(pattern), by) for pattern, by in rules]  # compiled once: some 50 a line


def clean_punctuation(line: str, language: str) -> str:
    """Return a raw line as Moses' normalize-punctuation.perl, then its remove-non-printing-char.perl, leave it."""
    if _NEEDS_NORMALISING.search(line):
        for pattern, by in _punctuation_rules(language):
            line = pattern.sub(by, line)
    return str(_NON_PRINTING.sub(" ", line))  # by a blank, as Moses does; sacremoses glues what is on either side


def tokenize(line: str, language: str, split_hyphens: bool = False) -> str:
    """Return one line as Moses tokens, special characters escaped; a line that is one markup tag stays as it is.

    ``split_hyphens``: ``well-kept`` becomes ``well @-@ kept`` (tokenizer.perl's ``-a``).
    """
    line = squeeze(line)
    if not line or _TAG_LINE.fullmatch(line):  # Moses hands such lines through
        return line
    return squeeze(_tokenizer(language).tokenize(line, aggressive_dash_splits=split_hyphens, return_str=True))


def detokenize(lines: Iterable[str], language: str) -> list[str]:
    """Return lines of Moses tokens as plain text, unescaped."""
    detokenizer = _detokenizer(language)
    return [str(detokenizer.detokenize(line.split())) for line in lines]


def squeeze(line: str) -> str:
    """Return the line with each run of white space (Unicode line separators included) as one blank, none outside."""
    return " ".join(line.split())
