"""Moses tokenization and punctuation normalization by sacremoses, corrected where sacremoses differs from Moses."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import regex

from normplugins.corpora.languages import has_spaces
from normplugins.corpora.symbols import has_symbol

# When tokens of a language without spaces are joined, a space stays only between two ASCII characters: "New York".
_BLANK_TO_DROP = re.compile(r"(?<![!-~]) | (?![!-~])")
_FINAL_STOP = re.compile(r"(?<=\S)\.$")
_TAG_LINE = re.compile(r"<.+>")
_NON_PRINTING = regex.compile(r"\p{C}")
_NEEDS_NORMALIZING = re.compile(r"[^\w .,?!/-]|  ")  # the punctuation normalizer changes no other line


# Importing sacremoses takes half a second, so it is imported only to tokenize.
@lru_cache
def _tokenizer(language: str) -> Any:
    """Return a Moses tokenizer that always splits the full stop off the last word of a line.

    In Moses, non-breaking prefixes (``U.S.``, ``Dr.``, a single letter) protect a full stop only inside a line. In
    sacremoses they protect it at the end too, which changes 31 of the 13,500 IWSLT14 test lines.
    """
    from sacremoses import MosesTokenizer

    tokenizer = MosesTokenizer(language)
    inside_a_line = tokenizer.handles_nonbreaking_prefixes
    tokenizer.handles_nonbreaking_prefixes = lambda text: _FINAL_STOP.sub(" .", inside_a_line(text))
    return tokenizer


@lru_cache
def _detokenizer(language: str) -> Any:
    from sacremoses import MosesDetokenizer

    return MosesDetokenizer(language)


@lru_cache
def _punctuation_normalizer(language: str) -> Any:
    from sacremoses import MosesPunctNormalizer

    return MosesPunctNormalizer(lang=language, perl_parity=True)


def clean_punctuation(line: str, language: str) -> str:
    """Apply Moses' normalize-punctuation.perl and remove-non-printing-char.perl to a raw line."""
    if _NEEDS_NORMALIZING.search(line):
        line = _punctuation_normalizer(language).normalize(line)
    return str(_NON_PRINTING.sub(" ", line))  # a space, as in Moses; sacremoses only deletes the character


def tokenize(line: str, language: str, split_hyphens: bool = False) -> str:
    """Return one line as Moses tokens, with special characters escaped; a line of markup is not changed.

    With ``split_hyphens``, ``well-kept`` becomes ``well @-@ kept`` (tokenizer.perl's ``-a``).
    """
    line = squeeze(line)
    if not line or (_TAG_LINE.fullmatch(line) and not has_symbol(line.lower())):  # as in Moses
        return line
    return squeeze(_tokenizer(language).tokenize(line, aggressive_dash_splits=split_hyphens, return_str=True))


def detokenize(lines: Iterable[str], language: str) -> list[str]:
    """Return lines of Moses tokens as plain text, unescaped; in a language without spaces, the tokens are joined."""
    if not has_spaces(language):
        return [_detokenizer("en").unescape_xml(_BLANK_TO_DROP.sub("", line)) for line in lines]
    detokenizer = _detokenizer(language)
    return [str(detokenizer.detokenize(line.split())) for line in lines]


def squeeze(line: str) -> str:
    """Replace each run of whitespace, including Unicode line separators, with one space; strip both ends."""
    return " ".join(line.split())
