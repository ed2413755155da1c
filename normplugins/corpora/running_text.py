"""Running text for language models: word level, streamed line by line to fairseq's data-bin."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from normplugins.corpora.base import SPLITS, Echo, PublishedCorpus
from normplugins.corpora.binarize import RESERVED, UNKNOWN, binarize_text
from normplugins.corpora.stages import Inputs, run_stage, write_manifest
from normplugins.utils.errors import UserError
from normplugins.utils.files import text_lines

_RECIPE = 1  # increase this when the same files give other binary data, or other facts about them


@dataclass
class RunningText(PublishedCorpus):
    """A corpus of running text: the words of its files, each line ended by one symbol.

    A token is a word or the end of a line; ``types`` are the different tokens of the training text.
    """

    DIGESTS: ClassVar[Mapping[str, str]]
    """The published digest of each split's text, as ``sha256:...``."""

    def open_split(self, files: Mapping[str, Path], split: str) -> tuple[str, Iterator[bytes]]:
        """Return the name of a split's text, for messages, and an iterator over its lines."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return everything that the prepared text depends on, except the input files."""
        return {"level": "word"}

    def variant(self) -> str:
        """Return the folder name of these settings."""
        return "word"


@dataclass(frozen=True)
class PreparedText:
    """Running text ready for fairseq's language_modeling task: ``bin_dir`` has dict.txt and {split}.{bin,idx}."""

    folder: Path
    bin_dir: Path
    manifest: dict[str, Any]


@dataclass
class _Split:
    """Counts of a split's text; ``digests`` are keyed by the name of their algorithm."""

    where: str
    lines: int = 0
    words: Counter[str] = field(default_factory=Counter)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """The number of lines, words and tokens."""
        words = self.words.total()
        return {"lines": self.lines, "words": words, "tokens": words + self.lines}


def prepare_running_text(corpus: RunningText, home: Path, echo: Echo) -> PreparedText:
    """Prepare under ``home/<variant>``; the caller holds the lock of ``home``. Raises UserError for bad input."""
    folder, inputs = home / corpus.variant(), Inputs(corpus, home / "raw", echo)
    key = inputs.stage_key(_RECIPE, ["fairseq"])

    def binarize(to: Path) -> dict[str, Any]:
        with inputs.reading():
            echo(f"{corpus.name}: counting words")
            splits = {split: _count(corpus, inputs, split) for split in SPLITS}
            facts = _facts(splits)
            if corpus.verify:
                _verify(corpus, splits, facts)
        echo(f"{corpus.name}: binarizing")
        lines = {split: _words(*corpus.open_split(inputs.files, split)) for split in SPLITS}
        return {**facts, "dictionary_types": binarize_text(splits["train"].words, lines, to)}

    record = run_stage(folder / "bin", key, binarize)
    facts = record["facts"]
    manifest = {
        "corpus": corpus.name,
        **{name: facts[name] for name in ("counts", "types", "dictionary_types", "unigram_ppl")},
        "expected": dict(corpus.published()),
        "note": ", ".join(_differing(corpus, facts)),
        "notes": facts["notes"],
        "sha256": {f"text/{split}": digest for split, digest in facts["text_sha256"].items()}
        | {f"bin/{name}": file["sha256"] for name, file in record["files"].items()},
        **{name: key[name] for name in ("inputs", "settings", "versions")},
    }
    write_manifest(folder, manifest, echo)
    return PreparedText(folder=folder, bin_dir=folder / "bin", manifest=manifest)


def unigram_perplexity(
    train: Counter[str], train_lines: int, split: Counter[str], lines: int, unknown: str = UNKNOWN
) -> float | None:
    """Perplexity of a maximum-likelihood unigram model of the training text on a split, over words and line ends.

    Words that the training text does not have are ``unknown``. Returns None if it does not have ``unknown`` either.
    """
    total = train.total() + train_lines
    known = {word: count for word, count in split.items() if word in train}
    known[unknown] = known.get(unknown, 0) + split.total() - sum(known.values())
    if known[unknown] and unknown not in train:
        return None
    log_likelihood = math.fsum(count * math.log(train[word] / total) for word, count in known.items() if count)
    log_likelihood += lines * math.log(train_lines / total)
    return math.exp(-log_likelihood / (split.total() + lines))


def _words(where: str, raw: Iterator[bytes]) -> Iterator[list[str]]:
    """Yield the words of each line, split at any Unicode white space as in the published counts."""
    return (line.split() for line in text_lines(raw, where))


def _count(corpus: RunningText, inputs: Inputs, split: str) -> _Split:
    where, raw = corpus.open_split(inputs.files, split)
    digests = {name: hashlib.new(name) for name in {"sha256", corpus.DIGESTS[split].partition(":")[0]}}

    def digested() -> Iterator[bytes]:
        for line in raw:
            for digest in digests.values():
                digest.update(line)
            yield line

    counted = _Split(where)
    for words in _words(where, digested()):
        counted.words.update(words)
        counted.lines += 1
    counted.digests = {name: digest.hexdigest() for name, digest in digests.items()}
    if not counted.words:
        raise UserError(f"{where} has no word")
    if reserved := sorted(RESERVED & counted.words.keys()):
        raise UserError(f"{where} has the word {reserved[0]}, which is reserved by fairseq")
    return counted


def _verify(corpus: RunningText, splits: dict[str, _Split], facts: dict[str, Any]) -> None:
    """Raise UserError unless the text is the published one, by its bytes and by its counts."""
    what_to_do = "get the original file, or set corpus.verify=false to use this one"
    for split, counted in splits.items():
        algorithm, _, wanted = corpus.DIGESTS[split].partition(":")
        if (found := counted.digests[algorithm]) != wanted:
            raise UserError(
                f"{counted.where} is not the published {corpus.name} text: its {algorithm} is {found}, not {wanted}; "
                + what_to_do
            )
    if differing := _differing(corpus, facts):
        raise UserError(f"{corpus.name} has {', '.join(differing)}; {what_to_do}")


def _facts(splits: dict[str, _Split]) -> dict[str, Any]:
    train, notes = splits["train"], []
    for split in ("valid", "test"):
        if new := sum(count for word, count in splits[split].words.items() if word not in train.words):
            notes.append(f"{new:,} {split} words that the training text does not have: read as {UNKNOWN}")
    return {
        "counts": {split: counted.counts for split, counted in splits.items()},
        "types": len(train.words) + 1,  # as in the published counts: the line end is a type, <s> and <pad> are not
        "unigram_ppl": {
            split: unigram_perplexity(train.words, train.lines, splits[split].words, splits[split].lines)
            for split in ("valid", "test")
        },
        "text_sha256": {split: counted.digests["sha256"] for split, counted in splits.items()},
        "notes": notes,
    }


def _differing(corpus: RunningText, facts: dict[str, Any]) -> list[str]:
    found = {f"{split} {unit}": count for split, counts in facts["counts"].items() for unit, count in counts.items()}
    found["types"] = facts["types"]
    return [
        f"{found[name]:,} of {wanted:,} {name}" for name, wanted in corpus.published().items() if wanted != found[name]
    ]
