"""Corpora: fetch -> verify -> tokenize -> subword -> binarize, one file per corpus."""

from normplugins.corpora.config import CorpusConfig
from normplugins.corpora.pipeline import CORPORA, PreparedCorpus, prepare
from normplugins.corpora.subwords import remove_subwords
from normplugins.corpora.tokenizer import detokenize

__all__ = ["CORPORA", "CorpusConfig", "PreparedCorpus", "detokenize", "prepare", "remove_subwords"]
