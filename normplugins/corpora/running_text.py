"""Running text for language models: word level, streamed line by line to fairseq's data-bin."""

import hashlib
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from normplugins.corpora.base import SPLITS, Echo, PublishedCorpus, verify_digest
from normplugins.corpora.binarize import binarize_text
from normplugins.corpora.stages import Inputs, run_stage, write_manifest
from normplugins.utils.errors import UserError
from normplugins.utils.files import text_lines

_RECIPE = 1  # increase this when the same files give other binary data, or other facts about them
UNKNOWN, LINE_END = "<unk>", "</s>"  # as in fairseq's dictionary
RESERVED = frozenset({"<s>", "<pad>", LINE_END})  # every fairseq dictionary has them, but not its file


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

    def check_file(self, path: Path) -> None:
        """Raise UserError for a downloaded file that is damaged or, with ``verify``, not the published one."""
        for split in SPLITS:
            try:
                where, lines = self.open_split({path.name: path}, split)
            except KeyError:  # the split has a file of its own
                continue
            if self.verify:
                verify_digest(where, f"{self.name} text", lines, self.DIGESTS[split])
            else:
                deque(lines, maxlen=0)

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
class _Text:
    """The counts of the words of a split, line ends included, and the digests of its text by algorithm."""

    where: str
    counts: Counter[str]
    digests: dict[str, str]


def prepare_running_text(corpus: RunningText, home: Path, echo: Echo) -> PreparedText:
    """Prepare under ``home/<variant>``; the caller holds the lock of ``home``. Raises UserError for bad input."""
    folder, inputs = home / corpus.variant(), Inputs(corpus, home / "raw", echo)
    key = inputs.stage_key(_RECIPE, ["fairseq"])

    def binarize(to: Path) -> dict[str, Any]:
        with inputs.reading():
            echo(f"{corpus.name}: counting words")
            texts = {split: _count(corpus, inputs, split) for split in SPLITS}
            facts = _facts(texts)
            if corpus.verify:
                _verify(corpus, texts, facts)
        echo(f"{corpus.name}: binarizing")
        lines = {split: _words(*corpus.open_split(inputs.files, split)) for split in SPLITS}
        return {**facts, "dictionary_types": binarize_text(texts["train"].counts, lines, to)}

    record = run_stage(folder / "bin", key, binarize, echo)
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


def unigram_perplexity(train: Counter[str], split: Counter[str]) -> float | None:
    """Perplexity of a maximum-likelihood unigram model of the training text on a split, over words and line ends.

    Words that the training text does not have are ``<unk>``. Returns None if it does not have ``<unk>`` either.
    """
    known = Counter({word: count for word, count in split.items() if word in train})
    known[UNKNOWN] += split.total() - known.total()
    if known[UNKNOWN] and UNKNOWN not in train:
        return None
    total, lines = train.total(), known.pop(LINE_END)
    log_likelihood = math.fsum(count * math.log(train[word] / total) for word, count in known.items() if count)
    log_likelihood += lines * math.log(train[LINE_END] / total)
    return math.exp(-log_likelihood / split.total())


def _words(where: str, raw: Iterable[bytes]) -> Iterator[list[str]]:
    """Yield the words of each line, split at any Unicode white space as in the published counts."""
    return (line.split() for line in text_lines(raw, where))


def _count(corpus: RunningText, inputs: Inputs, split: str) -> _Text:
    where, raw = corpus.open_split(inputs.files, split)
    digests = {name: hashlib.new(name) for name in ("sha256", corpus.DIGESTS[split].partition(":")[0])}

    def digested() -> Iterator[bytes]:
        for line in raw:
            for digest in digests.values():
                digest.update(line)
            yield line

    counts, lines = Counter[str](), 0
    for words in _words(where, digested()):
        counts.update(words)
        lines += 1
    if not counts:
        raise UserError(f"{where} has no word")
    if reserved := sorted(RESERVED & counts.keys()):
        raise UserError(f"{where} has the word {reserved[0]}, which is reserved by fairseq")
    counts[LINE_END] = lines
    return _Text(where, counts, {name: digest.hexdigest() for name, digest in digests.items()})


def _verify(corpus: RunningText, texts: dict[str, _Text], facts: dict[str, Any]) -> None:
    """Raise UserError unless the text is the published one, by its bytes and by its counts."""
    what_to_do = "get the original file, or set corpus.verify=false to use this one"
    for split, text in texts.items():
        algorithm, _, wanted = corpus.DIGESTS[split].partition(":")
        if (found := text.digests[algorithm]) != wanted:
            raise UserError(
                f"{text.where} is not the published {corpus.name} text: its {algorithm} is {found}, not {wanted}; "
                + what_to_do
            )
    if differing := _differing(corpus, facts):
        raise UserError(f"{corpus.name} has {', '.join(differing)}; {what_to_do}")


def _facts(texts: dict[str, _Text]) -> dict[str, Any]:
    counts = {split: text.counts for split, text in texts.items()}
    train, held_out = counts["train"], {split: counts[split] for split in ("valid", "test")}
    new = {split: sum(count for word, count in words.items() if word not in train) for split, words in held_out.items()}
    return {
        "counts": {
            split: {"lines": words[LINE_END], "words": words.total() - words[LINE_END], "tokens": words.total()}
            for split, words in counts.items()
        },
        "types": len(train),  # as in the published counts: the line end is a type, <s> and <pad> are not
        "unigram_ppl": {split: unigram_perplexity(train, words) for split, words in held_out.items()},
        "text_sha256": {split: text.digests["sha256"] for split, text in texts.items()},
        "notes": [
            f"{count:,} {split} words that the training text does not have: read as {UNKNOWN}"
            for split, count in new.items()
            if count
        ],
    }


def _differing(corpus: RunningText, facts: dict[str, Any]) -> list[str]:
    found = {f"{split} {unit}": count for split, counts in facts["counts"].items() for unit, count in counts.items()}
    return corpus.differing({**found, "types": facts["types"]})
