"""Corpora: fetched, verified, tokenized, split into subwords and binarized for fairseq. One module per corpus."""

from normplugins.corpora import custom, custom_text, demo, iwslt14, multi30k, ptb, wikitext, wmt14  # noqa: F401  (they register)
from normplugins.corpora.base import CORPORA, corpus_config, register, register_corpus_nodes
from normplugins.corpora.parallel import ParallelCorpus
from normplugins.corpora.pipeline import PreparedCorpus, open_prepared, prepare
from normplugins.corpora.running_text import RunningText
from normplugins.corpora.stages import Prepared, changed_files
from normplugins.corpora.subwords import remove_subwords

__all__ = [
    "CORPORA",
    "ParallelCorpus",
    "Prepared",
    "PreparedCorpus",
    "RunningText",
    "changed_files",
    "corpus_config",
    "open_prepared",
    "prepare",
    "register",
    "register_corpus_nodes",
    "remove_subwords",
]
