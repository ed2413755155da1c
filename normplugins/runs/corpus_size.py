"""How large a corpus is for its experiment: as counted where it is prepared, or else as published or assumed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from normplugins.corpora import ParallelCorpus, RunningText, corpus_config

# Sentences and tokens of training texts as others have counted them, where neither a config nor a paper has them: the
# side with more tokens, subwords and the end of each sentence counted. IWSLT14: fairseq's recipe. WMT14: fairseq's log
# of the same three corpora with a joint BPE of 32,000 (WMT16 en-de): 4,500,966 pairs, 132,886,171 en, 137,628,246 de.
COUNTED = {"iwslt14": (160_239, 4_035_591 + 160_239), "wmt14": (4_500_966, 137_628_246)}
LENGTH = 30  # tokens in a sentence, where nothing is known of a corpus
LONGEST = 100
_FAIRSEQ_SYMBOLS = 4  # <s>, <pad>, </s>, <unk>
_NOT_IN_TEXT = 2  # <s> and <pad>: a running text has the other two


@dataclass(frozen=True)
class Size:
    """What a plan needs to know of a corpus; a sentence is a segment where the text is one stream.

    ``types``: symbols of the dictionary. ``sentences`` and ``tokens``: of an epoch, on the side with more tokens, with
    the end of each sentence; None where nobody knows. ``length``: tokens in a usual sentence; ``longest``: in the
    longest. ``text_from`` and ``types_from``: how all this is known.
    """

    types: int
    sentences: int | None
    tokens: int | None
    length: int
    longest: int
    text_from: str
    types_from: str

    @property
    def in_segments(self) -> bool:
        """Whether the text is cut into pieces of one length, so that no batch is padded."""
        return self.length == self.longest


def corpus_size(config: DictConfig) -> Size:
    """The size of a run's corpus. Reads ``corpus.json`` of a prepared one, and nothing else."""
    corpus = corpus_config(config.corpus)
    path = Path(config.data_dir) / corpus.name / corpus.variant() / "corpus.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if isinstance(corpus, RunningText):
        return _running_text(corpus, manifest, config.task.tokens_per_sample)
    assert isinstance(corpus, ParallelCorpus)
    return _parallel_text(corpus, manifest)


def _running_text(corpus: RunningText, manifest: dict[str, Any] | None, segment: int) -> Size:
    if manifest:
        tokens, types = manifest["counts"]["train"]["tokens"], manifest["dictionary_types"]
        known = "counted in the prepared corpus"
    else:
        published = corpus.published()
        tokens, types = published.get("train tokens"), published.get("types", 10_000) + _NOT_IN_TEXT
        known = "as published; not prepared here"
    segments = math.ceil(tokens / segment) if tokens else None
    return Size(types, segments, tokens, segment, segment, known, known)


def _parallel_text(corpus: ParallelCorpus, manifest: dict[str, Any] | None) -> Size:
    if manifest:
        pairs, subwords = manifest["counts"]["train"]["pairs"], manifest["subword"]["subwords"]
        tokens = max(subwords[f"train.{language}"] for language in (corpus.source, corpus.target)) + pairs
        longest = max(manifest["longest"]["train"].values())
        known = "counted in the prepared corpus"
        return Size(manifest["dictionary_types"], pairs, tokens, round(tokens / pairs), longest, known, known)
    types = math.ceil((corpus.subword_size + _FAIRSEQ_SYMBOLS) / 8) * 8  # fairseq fills up to a multiple of 8
    types_from = f"expected with corpus.subword_size={corpus.subword_size}; not prepared here"
    longest = corpus.max_length or LONGEST
    if corpus.name in COUNTED:
        pairs, tokens = COUNTED[corpus.name]
        return Size(
            types,
            pairs,
            tokens,
            round(tokens / pairs),
            longest,
            "expected, as others have counted it; not prepared here",
            types_from,
        )
    known_pairs = corpus.published().get("train", getattr(corpus, "train_size", None))
    return Size(
        types,
        known_pairs,
        known_pairs * LENGTH if known_pairs else None,
        LENGTH,
        longest,
        f"{LENGTH} tokens a sentence are assumed; not prepared here",
        types_from,
    )
