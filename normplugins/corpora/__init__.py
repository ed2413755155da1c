"""Corpora: fetch -> verify -> tokenize -> subword -> binarize (running text: by words as they are), a file each."""

from normplugins.corpora.pipeline import CORPORA, PreparedCorpus, corpus_config, prepare
from normplugins.corpora.running_text import TEXTS, PreparedText
from normplugins.corpora.settings import CorpusConfig, TextConfig
from normplugins.corpora.subwords import remove_subwords
from normplugins.corpora.tokenizer import detokenize

__all__ = [
    "CORPORA",
    "TEXTS",
    "CorpusConfig",
    "PreparedCorpus",
    "PreparedText",
    "TextConfig",
    "corpus_config",
    "detokenize",
    "prepare",
    "remove_subwords",
]
