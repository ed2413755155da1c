"""Prepares new raw text in the same way as a corpus, and turns the output of a model back into plain text."""

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from functools import partial

from normplugins.corpora.parallel import ParallelCorpus
from normplugins.corpora.pipeline import PreparedCorpus
from normplugins.corpora.running_text import RunningText, line_splitter
from normplugins.corpora.stages import Prepared
from normplugins.corpora.subwords import remove_subwords
from normplugins.corpora.symbols import refuse_symbols
from normplugins.corpora.text_stages import tokenize_line

_MARK = "\0"


@dataclass(frozen=True)
class TextPipeline:
    """The preparation of a corpus for single lines, as it was applied to the test text.

    Attributes:
        level: ``word``, or the kind of subwords.
        tokenize: tokenizes a raw line, and lower-cases it if the corpus is lower-cased.
        split: splits a tokenized line into words or subwords.
        to_text: turns lines of tokens into plain text, in the case of the corpus.
    """

    level: str
    tokenize: Callable[[str], str]
    split: Callable[[str], list[str]]
    to_text: Callable[[Iterable[str]], list[str]]

    def encode(self, line: str, where: str, number: int) -> list[str]:
        """Return the words or subwords of a raw line.

        ``where`` and ``number`` are the file and the line that the UserErrors of :func:`refuse_symbols` name.
        """
        return self.split(refuse_symbols(self.tokenize(line), self.level, where, number))

    def join(self, pieces: str) -> str:
        """Join subwords, separated by spaces, back into words."""
        return pieces if self.level == "word" else remove_subwords(pieces, self.level)

    def decode(self, pieces: str) -> str:
        """Return words or subwords, separated by spaces, as plain text."""
        return self.to_text([self.join(pieces)])[0]

    def unknown_words(self, pieces: Iterable[str], vocabulary: Container[str]) -> list[str]:
        """Return the words that have a piece outside the vocabulary."""
        form = "{1}{0}" if self.level == "sentencepiece" else "{0}{1}"
        marked = (piece if piece in vocabulary else form.format(_MARK, piece) for piece in pieces)
        return [word.replace(_MARK, "") for word in self.join(" ".join(marked)).split() if _MARK in word]


def text_pipeline(corpus: ParallelCorpus | RunningText, prepared: Prepared) -> TextPipeline:
    """Return the pipeline of a prepared corpus: it encodes the source language, and decodes the target language."""
    level = corpus.level if isinstance(corpus, RunningText) else corpus.subword
    split = line_splitter(level, prepared.folder)
    if isinstance(corpus, RunningText):
        return TextPipeline(level, str, split, list)
    assert isinstance(prepared, PreparedCorpus)
    tokenize = partial(tokenize_line, corpus, corpus.source, "test")
    # A corpus of given tokens takes tokens and returns tokens.
    return TextPipeline(level, tokenize, split, list if corpus.resolved_tokenizer == "given" else prepared.to_text)
