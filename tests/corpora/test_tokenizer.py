"""Moses tokens: the rule in which sacremoses differs, and the published test set when the archive is at hand."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normplugins.corpora.iwslt14 import ARCHIVE, TEST_SHA256
from normplugins.corpora.text_stages import tokenize_line
from normplugins.corpora.tokenizer import detokenize, squeeze, tokenize
from tests.helpers.corpora import config


@pytest.mark.parametrize(
    ("language", "line", "tokens"),
    [
        ("en", "They moved to the U.S.", "They moved to the U.S ."),  # final abbreviation
        ("en", "The U.S. moved on.", "The U.S. moved on ."),  # the same inside a line
        ("en", "Vitamin C and B.", "Vitamin C and B ."),  # final single letter
        ("en", "Ask Dr. Who or Mr.", "Ask Dr. Who or Mr ."),  # final title
        ("en", "See No. 7 first.", "See No. 7 first ."),  # numeric-only prefix before a number
        ("en", "I say No. Then go.", "I say No . Then go ."),  # and before a word
        ("de", "Im Jahr 1900 waren es 75.", "Im Jahr 1900 waren es 75 ."),  # final number
        ("de", "Am 3. Oktober war es.", "Am 3. Oktober war es ."),  # ordinal inside a line
        ("de", "Hunde, Katzen usw.", "Hunde , Katzen usw ."),
        ("en", "And then...", "And then ..."),  # dots stay together
        ("en", '"It\'s R&D here."', "&quot; It &apos;s R &amp; D here . &quot;"),
        ("en", "one\u2028two\u00a0three\tfour", "one two three four"),
        ("en", "<speaker>A. Person</speaker>", "<speaker>A. Person</speaker>"),  # one tag line goes through
        ("en", "", ""),
    ],
)
def test_tokens_are_those_of_moses(language: str, line: str, tokens: str) -> None:
    assert tokenize(line, language) == tokens


@given(st.text(alphabet="aZ1.,' -\u00a0\u2028\r", max_size=40))
def test_a_line_stays_one_line_of_single_blanks(line: str) -> None:
    done = tokenize(line, "en")
    assert done == squeeze(done)
    assert done.replace(" ", "").replace("&apos;", "'") == squeeze(line).replace(" ", "")


def test_detokenize_undoes_escapes_and_spacing() -> None:
    assert detokenize(["it &apos;s a &quot; test &quot; , no ?"], "en") == ['it\'s a "test", no?']
    assert detokenize([], "de") == []


@pytest.mark.slow
def test_published_test_set_byte_for_byte(real_corpora: Callable[[str, str], Path]) -> None:
    archive = real_corpora(ARCHIVE, "iwslt14")
    corpus = config("iwslt14")
    words = {}
    for language, lines in zip(("de", "en"), zip(*corpus.read({ARCHIVE: archive}).test, strict=True), strict=True):
        tokens = [tokenize_line(corpus, language, "test", line) for line in lines]
        words[language] = sum(len(line.split()) for line in tokens)
        assert hashlib.sha256("".join(f"{line}\n" for line in tokens).encode()).hexdigest() == TEST_SHA256[language]
    assert words == {"de": 125754, "en": 131156}  # published
