"""Running text for language models: words or subwords, streamed line by line to fairseq's data-bin."""

import hashlib
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from normplugins.corpora import subwords
from normplugins.corpora.base import SPLITS, Corpus, PublishedCorpus, verified
from normplugins.corpora.binarize import binarize_text
from normplugins.corpora.stages import Preparation, Prepared
from normplugins.corpora.symbols import LINE_END, UNKNOWN, refuse_symbols
from normplugins.utils.errors import UserError
from normplugins.utils.files import text_lines
from normplugins.utils.steps import Echo

Split = Callable[[str], list[str]]
"""Splits a line into words or subwords."""


@dataclass
class RunningText(Corpus):
    """A corpus of running text: the words or subwords of its files, with a symbol at the end of each line.

    A token is a word, a subword or the end of a line. ``types`` are the distinct tokens of the training text.
    """

    DIGESTS: ClassVar[Mapping[str, str]] = {}
    """The published digest of each split's text, as ``sha256:...``; empty for text that is not published."""

    # The values for published text; the user's own text has settings of these names.
    subword, subword_size, min_count = "none", 0, 1

    @property
    def level(self) -> str:
        """``word``, or the kind of subwords that the text is split into."""
        return "word" if self.subword == "none" else self.subword

    def notes(self, files: Mapping[str, Path], train: Counter[str], new: Mapping[str, int]) -> list[str]:  # noqa: ARG002
        """Return what the user should know about the text; ``new`` has the number of unknown tokens of each split."""
        return []

    def open_split(self, files: Mapping[str, Path], split: str) -> tuple[str, Iterator[bytes]]:
        """Return the name of a split's text, for messages, and an iterator over its lines."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return everything that the prepared text depends on, except the input files."""
        return {"level": self.level}

    def variant(self) -> str:
        """Return the folder name for these settings."""
        return self.level


@dataclass
class PublishedText(PublishedCorpus, RunningText):
    """Running text that is downloaded, and verified by the digests of its splits."""

    def check_file(self, path: Path) -> None:
        """Raise UserError for a downloaded file that is damaged or, with ``verify``, not the published one."""
        for split in SPLITS:
            try:
                where, lines = self.open_split({path.name: path}, split)
            except KeyError:  # the split has a file of its own
                continue
            if self.verify:
                lines = verified(where, f"{self.name} text", lines, self.DIGESTS[split])
            deque(lines, maxlen=0)


def prepare_running_text(corpus: RunningText, home: Path, echo: Echo) -> Prepared:
    """Prepare a corpus under ``home/<variant>``; the caller locks ``home``. Raises UserError for bad input."""
    stages = Preparation(corpus, home, echo)
    tools = ["fairseq"] if corpus.level == "word" else ["fairseq", subwords.PACKAGES[corpus.level]]
    key, files = stages.key(tools), stages.files

    def learn(to: Path) -> dict[str, Any]:
        echo(f"{corpus.name}: learning {corpus.level} subwords")
        subwords.learn(corpus.level, corpus.subword_size, 1, [files["train"]], to / subwords.FILES[corpus.level])
        return {}

    if corpus.level != "word":
        stages.run("subword", key, learn)
    split_line = line_splitter(corpus.level, stages.folder)
    record = stages.run("bin", key, partial(_binarize, corpus, files, split_line, echo))
    facts = record["facts"]
    found = {f"{split} {unit}": count for split, counts in facts["counts"].items() for unit, count in counts.items()}
    manifest = {
        "corpus": corpus.name,
        **{name: facts[name] for name in ("counts", "types", "dictionary_types", "unigram_ppl")},
        **({"subword": {"kind": corpus.level}} if corpus.level != "word" else {}),
        "note": ", ".join(corpus.count_differences({**found, "types": facts["types"]})),
        "notes": facts["notes"],
        "sha256": {f"text/{split}": digest for split, digest in facts["text_sha256"].items()}
        | {f"bin/{name}": file["sha256"] for name, file in record["files"].items()},
        **{name: key[name] for name in ("inputs", "settings", "versions")},
    }
    stages.write_manifest(manifest)
    return Prepared(stages.folder, manifest)


def line_splitter(level: str, folder: Path) -> Split:
    """Return a function that splits a line into words, or into subwords by the model of the text in ``folder``."""
    if level == "word":
        return str.split  # at any Unicode white space, as in the published counts
    split_words = subwords.splitter(level, folder / "subword" / subwords.FILES[level])
    return lambda line: split_words(" ".join(line.split())).split()


def unigram_perplexity(train: Counter[str], split: Counter[str]) -> float | None:
    """Return the perplexity of a split, over words and line ends, under the unigram frequencies of the training text.

    Words that do not occur in the training text count as ``<unk>``. Returns None if there are such words and ``<unk>``
    does not occur in it either.
    """
    known = Counter({word: count for word, count in split.items() if word in train})
    known[UNKNOWN] += split.total() - known.total()
    if known[UNKNOWN] and UNKNOWN not in train:
        return None
    total, lines = train.total(), known.pop(LINE_END)
    log_likelihood = math.fsum(count * math.log(train[word] / total) for word, count in known.items() if count)
    log_likelihood += lines * math.log(train[LINE_END] / total)
    return math.exp(-log_likelihood / split.total())


def _binarize(
    corpus: RunningText, files: Mapping[str, Path], split_line: Split, echo: Echo, to: Path
) -> dict[str, Any]:
    """Count and binarize the text; return the stage's facts."""
    echo(f"{corpus.name}: counting words")
    counts, numbers, digests = dict[str, Counter[str]](), dict[str, dict[str, int]](), dict[str, str]()
    for split in SPLITS:
        counts[split], numbers[split], digests[split] = _count(corpus, files, split, split_line)
    train, held_out = counts["train"], {split: counts[split] for split in ("valid", "test")}
    new = {split: sum(count for word, count in words.items() if word not in train) for split, words in held_out.items()}
    unit = "words" if corpus.level == "word" else "subwords"
    notes = [
        f"{count:,} {split} {unit} that the training text does not have: read as {UNKNOWN}"
        for split, count in new.items()
        if count
    ]
    notes += corpus.notes(files, train, new)
    echo(f"{corpus.name}: binarizing")
    texts = {split: corpus.open_split(files, split) for split in SPLITS}
    lines = {split: map(split_line, text_lines(raw, where)) for split, (where, raw) in texts.items()}
    return {
        "counts": numbers,
        "types": len(train),  # as in the published counts: the line end is a type, <s> and <pad> are not
        # over subwords it would not be a perplexity per word
        "unigram_ppl": {split: unigram_perplexity(train, words) for split, words in held_out.items()}
        if corpus.level == "word"
        else None,
        "text_sha256": digests,
        "notes": notes,
        "dictionary_types": binarize_text(train, lines, to),
    }


def _count(
    corpus: RunningText, files: Mapping[str, Path], split: str, split_line: Split
) -> tuple[Counter[str], dict[str, int], str]:
    """Return the counts of a split's tokens, its numbers of lines, words and tokens, and the SHA-256 of its text."""
    where, raw = corpus.open_split(files, split)
    if getattr(corpus, "verify", False):
        raw = verified(where, f"{corpus.name} text", raw, corpus.DIGESTS[split])
    digest = hashlib.sha256()

    def digested() -> Iterator[bytes]:
        for line in raw:
            digest.update(line)
            yield line

    counts, words, lines = Counter[str](), 0, 0
    for lines, line in enumerate(text_lines(digested(), where), 1):
        counts.update(split_line(refuse_symbols(line, corpus.level, where, lines)))
        words += len(line.split()) if corpus.level != "word" else 0
    if not counts:
        raise UserError(f"{where} has no word")
    words = words or counts.total()
    if split == "train":
        rare = [word for word, count in counts.items() if count < corpus.min_count and word != UNKNOWN]
        if rare:  # otherwise <unk> would become a type with a count of 0
            counts[UNKNOWN] += sum(counts.pop(word) for word in rare)
    counts[LINE_END] = lines
    return counts, {"lines": lines, "words": words, "tokens": counts.total()}, digest.hexdigest()
