"""Running text from its files to fairseq's data-bin, word by word and a line at a time: the text is never held."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from normplugins.corpora import ptb, wikitext
from normplugins.corpora.binarize import RESERVED, UNKNOWN, binarize_text
from normplugins.corpora.settings import TextConfig
from normplugins.corpora.stages import SPLITS, Echo, conclude, downloads_refused, gather, stage
from normplugins.utils.errors import UserError
from normplugins.utils.files import not_utf8, sha256

TEXTS = {"ptb": ptb, "wikitext2": wikitext, "wikitext103": wikitext}
_RECIPE = 1  # raise it when the same files come to give other numbers, or other facts about them


@dataclass(frozen=True)
class PreparedText:
    """Running text ready for fairseq's language_modeling task: ``bin_dir`` has dict.txt and {split}.{bin,idx}."""

    folder: Path
    bin_dir: Path
    manifest: dict[str, Any]


@dataclass
class _Split:
    """A split's text in numbers; ``digests`` by the name of their algorithm."""

    where: str
    lines: int = 0
    words: Counter[str] = field(default_factory=Counter)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Words and one end-of-line symbol a line: what a language model predicts."""
        return self.words.total() + self.lines


def prepare_running_text(config: TextConfig, home: Path, echo: Echo) -> PreparedText:
    """Prepare under ``home/<variant>``; the caller holds the lock of ``home``. Raises UserError for bad input."""
    module, folder = TEXTS[config.name], home / config.variant()
    files, fetched = gather(lambda: module.inputs(config, home / "raw", echo), home / "raw")
    key: dict[str, Any] = {"recipe": _RECIPE, "settings": config.settings(), "verified": config.verify}
    key |= {"versions": {"fairseq": version("fairseq")}}
    key |= {"inputs": {name: sha256(path) for name, path in files.items()}}

    def binarized(to: Path) -> dict[str, Any]:
        with downloads_refused(fetched, config.name):
            echo(f"{config.name}: counting words")
            splits = {split: _count(config, files, split) for split in SPLITS}
            if config.verify:
                _verify(config, splits)
        echo(f"{config.name}: binarizing")
        lines = {split: _lines(*module.source(config, files, split)) for split in SPLITS}
        return {**_facts(splits), "dictionary_types": binarize_text(splits["train"].words, lines, to)}

    record = stage(folder / "bin", key, binarized)
    manifest = _manifest(config, key, record)
    conclude(folder, manifest, echo)
    return PreparedText(folder=folder, bin_dir=folder / "bin", manifest=manifest)


def unigram_perplexity(
    train: Counter[str], train_lines: int, split: Counter[str], lines: int, unknown: str = UNKNOWN
) -> float | None:
    """Perplexity of a unigram model, estimated by maximum likelihood on train, over every token of a split.

    The end of a line is a token. Words that train does not have are ``unknown``; None if it has none of those either.
    """
    total = train.total() + train_lines
    known = {word: count for word, count in split.items() if word in train}
    known[unknown] = known.get(unknown, 0) + split.total() - sum(known.values())
    if known[unknown] and unknown not in train:
        return None
    log_likelihood = math.fsum(count * math.log(train[word] / total) for word, count in known.items() if count)
    log_likelihood += lines * math.log(train_lines / total)
    return math.exp(-log_likelihood / (split.total() + lines))


def _lines(where: str, raw: Iterator[bytes], *digests: Any) -> Iterator[list[str]]:
    """Yield the words of each line, as published counts have them: split at any Unicode white space."""
    for number, line in enumerate(raw, 1):
        for digest in digests:
            digest.update(line)
        try:
            yield line.decode("utf-8").split()
        except UnicodeDecodeError as error:
            raise not_utf8(where, number, error) from None


def _count(config: TextConfig, files: dict[str, Path], split: str) -> _Split:
    where, raw = TEXTS[config.name].source(config, files, split)
    published = TEXTS[config.name].DIGESTS[config.name][split].partition(":")[0]
    digests = {name: hashlib.new(name) for name in {"sha256", published}}
    counted = _Split(where)
    for words in _lines(where, raw, *digests.values()):
        counted.words.update(words)
        counted.lines += 1
    counted.digests = {name: digest.hexdigest() for name, digest in digests.items()}
    if not counted.words:
        raise UserError(f"{where} has no word")
    if reserved := sorted(RESERVED & counted.words.keys()):
        raise UserError(f"{where} has the word {reserved[0]}, which fairseq keeps for its own use")
    return counted


def _verify(config: TextConfig, splits: dict[str, _Split]) -> None:
    """Raise UserError unless the text is the published one, by its bytes and by its counts."""
    otherwise = "get the original file, or set corpus.verify=false to use this one"
    for split, counted in splits.items():
        algorithm, _, wanted = TEXTS[config.name].DIGESTS[config.name][split].partition(":")
        if (found := counted.digests[algorithm]) != wanted:
            raise UserError(
                f"{counted.where} is not the published {config.name} text: its {algorithm} is {found}, not {wanted}; "
                + otherwise
            )
    facts = _facts(splits)
    if differing := _differing(config, facts["counts"], facts["types"]):
        raise UserError(f"{config.name} has {', '.join(differing)}; {otherwise}")


def _facts(splits: dict[str, _Split]) -> dict[str, Any]:
    train, notes = splits["train"], []
    for split in ("valid", "test"):
        if new := sum(count for word, count in splits[split].words.items() if word not in train.words):
            notes.append(f"{new:,} {split} words that the training text does not have: read as {UNKNOWN}")
    return {
        "counts": {
            split: {"lines": counted.lines, "words": counted.words.total(), "tokens": counted.tokens}
            for split, counted in splits.items()
        },
        "types": len(train.words) + 1,  # the published way of counting: the end of a line is a type, <s> and <pad> not
        "unigram_ppl": {
            split: unigram_perplexity(train.words, train.lines, splits[split].words, splits[split].lines)
            for split in ("valid", "test")
        },
        "text_sha256": {split: counted.digests["sha256"] for split, counted in splits.items()},
        "notes": notes,
    }


def _differing(config: TextConfig, counts: dict[str, dict[str, int]], types: int) -> list[str]:
    found = {f"{split} {unit}": counts[split][unit] for split in SPLITS for unit in ("tokens", "lines")}
    found["types"] = types
    return [
        f"{found[name]:,} of {wanted:,} {name}"
        for name, wanted in config.expected().items()
        if wanted not in (None, found[name])
    ]


def _manifest(config: TextConfig, key: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    facts = record["facts"]
    return {
        "corpus": config.name,
        "counts": facts["counts"],
        "types": facts["types"],
        "dictionary_types": facts["dictionary_types"],
        "unigram_ppl": facts["unigram_ppl"],
        "expected": config.expected(),
        "note": ", ".join(_differing(config, facts["counts"], facts["types"])),
        "notes": facts["notes"],
        "sha256": {f"text/{split}": digest for split, digest in facts["text_sha256"].items()}
        | {f"bin/{name}": file["sha256"] for name, file in record["files"].items()},
        "inputs": key["inputs"],
        "settings": key["settings"],
        "versions": key["versions"],
    }
