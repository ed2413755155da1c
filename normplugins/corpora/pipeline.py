"""Preparing a corpus from its files to fairseq's data-bin, stage by stage, each skipped when already done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload

from normplugins.corpora import custom, demo, iwslt14, multi30k, subwords
from normplugins.corpora.binarize import binarize
from normplugins.corpora.bitext import Bitext, Tokenized, prepare_text
from normplugins.corpora.config import CorpusConfig, TextConfig
from normplugins.corpora.files import lock, read_lines, sha256, write_lines
from normplugins.corpora.parallel import map_lines
from normplugins.corpora.running_text import TEXTS, PreparedText, prepare_running_text
from normplugins.corpora.stages import SPLITS, Echo, conclude, downloads_refused, gather, stage
from normplugins.corpora.tokenizer import detokenize, squeeze, tokenize
from normplugins.errors import UserError

CORPORA = {"iwslt14": iwslt14, "multi30k": multi30k, "demo": demo, "custom": custom}
_RECIPE = 2  # raise it when the same files and settings come to give other text, or other facts about it
_TOOLS = {"moses": ["sacremoses"], "bpe": ["subword-nmt"], "sentencepiece": ["sentencepiece"]}


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus ready for fairseq's translation task, and what its translations are scored against.

    ``bin_dir`` has one joined dictionary under both languages' names. ``reference_tokens``: the test set's target side
    in tokens, one line per pair, cased as the training text. ``reference_text``: the same as written, in its own case.
    """

    folder: Path
    bin_dir: Path
    source: str
    target: str
    reference_tokens: Path
    reference_text: Path
    source_text: Path
    manifest: dict[str, Any]

    def to_tokens(self, lines: Iterable[str]) -> list[str]:
        """Turn output lines (subwords joined already) into the tokens that ``reference_tokens`` is scored in."""
        if self.manifest["tokenizer"] != "none":
            return list(lines)
        done = [tokenize(line, self.target) for line in lines]
        return [line.lower() for line in done] if self.manifest["lowercase"] else done

    def to_text(self, lines: Iterable[str]) -> list[str]:
        """Turn output lines (subwords joined already) into plain text, to score against ``reference_text``."""
        if self.manifest["tokenizer"] == "none":
            return [squeeze(line) for line in lines]
        return detokenize(lines, self.target)


def corpus_config(mapping: Mapping[str, Any]) -> CorpusConfig | TextConfig:
    """Build the settings of a corpus from any mapping (a composed Hydra node too): its ``name`` says of which kind.

    Raises UserError for a key that this kind does not have.
    """
    return (TextConfig if mapping.get("name") in TEXTS else CorpusConfig).from_mapping(mapping)


@overload
def prepare(config: CorpusConfig, root: Path, echo: Echo = ..., workers: int | None = ...) -> PreparedCorpus: ...
@overload
def prepare(config: TextConfig, root: Path, echo: Echo = ..., workers: int | None = ...) -> PreparedText: ...
@overload
def prepare(
    config: CorpusConfig | TextConfig, root: Path, echo: Echo = ..., workers: int | None = ...
) -> PreparedCorpus | PreparedText: ...
def prepare(
    config: CorpusConfig | TextConfig, root: Path, echo: Echo = print, workers: int | None = None
) -> PreparedCorpus | PreparedText:
    """Make sure that a corpus lies prepared under ``root/<name>/<variant>`` and return it.

    Stages that are done with the same settings and the same input files are not repeated. The bytes written do not
    depend on ``workers`` (default: all cores; running text is one process's work). Raises UserError for an unknown
    corpus and for bad input.
    """
    config.check()
    home = Path(root).absolute() / config.name
    with lock(home, echo):
        if isinstance(config, TextConfig):
            return prepare_running_text(config, home, echo)
        return _prepare(config, home, echo, workers)


def _prepare(config: CorpusConfig, home: Path, echo: Echo, workers: int | None) -> PreparedCorpus:
    module, folder = CORPORA[config.name], home / config.variant()
    files, fetched = gather(lambda: module.inputs(config, home / "raw", echo), home / "raw")
    versions = {name: version(name) for name in _tools(config)}
    key: dict[str, Any] = {"recipe": _RECIPE, "settings": config.settings(), "versions": versions}
    key["verified"] = config.verify
    key |= {"inputs": {name: sha256(path) for name, path in files.items()}}

    def tokenized(to: Path) -> dict[str, Any]:
        echo(f"{config.name}: tokenizing")
        with downloads_refused(fetched, config.name):
            bitext: Bitext = module.read(config, files)
        text = prepare_text(bitext, config, workers)
        with downloads_refused(fetched, config.name):
            _check_test(config, text)
        return _write_text(text, config, to)

    def subworded(to: Path) -> dict[str, Any]:
        echo(f"{config.name}: learning {config.subword_size:,} joint {config.subword} subwords")
        return _split_words(config, folder / "tokenized", to, workers)

    def binarized(to: Path) -> dict[str, Any]:
        echo(f"{config.name}: binarizing")
        return {"dictionary_types": binarize(folder / "subword", to, config.source, config.target)}

    texts = stage(folder / "tokenized", key, tokenized)
    pieces = stage(folder / "subword", {"of": texts["fingerprint"]}, subworded)
    binary = stage(folder / "bin", {"of": pieces["fingerprint"]}, binarized)
    manifest = _manifest(config, key, texts, pieces, binary)
    conclude(folder, manifest, echo)
    return PreparedCorpus(
        folder=folder,
        bin_dir=folder / "bin",
        source=config.source,
        target=config.target,
        reference_tokens=folder / "tokenized" / f"reference.tokens.{config.target}",
        reference_text=folder / "tokenized" / f"reference.text.{config.target}",
        source_text=folder / "tokenized" / f"source.text.{config.source}",
        manifest=manifest,
    )


def _tools(config: CorpusConfig) -> list[str]:
    # With text left raw the reference is still tokenised; given tokens are still detokenised.
    return ["sacremoses", *_TOOLS[config.subword], "fairseq"]


def _check_test(config: CorpusConfig, text: Tokenized) -> None:
    test = text.splits["test"]
    if not config.verify:
        return
    if config.expected_test not in (None, len(test)):
        raise UserError(
            f"the test set of {config.name} has {len(test):,} pairs, not the published {config.expected_test:,} "
            f"({test.where[0]}); get the original files, or set corpus.verify=false to use these"
        )
    if hasattr(CORPORA[config.name], "verify"):
        CORPORA[config.name].verify(config, {config.source: test.source, config.target: test.target})


def _write_text(text: Tokenized, config: CorpusConfig, to: Path) -> dict[str, Any]:
    counts = {}
    for split, pairs in text.splits.items():
        counts[split] = {"pairs": len(pairs)}
        for language, lines in ((config.source, pairs.source), (config.target, pairs.target)):
            write_lines(to / f"{split}.{language}", lines)
            counts[split][f"words_{language}"] = sum(len(line.split()) for line in lines)
    write_lines(to / f"source.text.{config.source}", text.source_text)
    write_lines(to / f"reference.text.{config.target}", text.reference_text)
    write_lines(to / f"reference.tokens.{config.target}", text.reference_tokens)
    return {"counts": counts, "notes": text.notes}


def _split_words(config: CorpusConfig, texts: Path, to: Path, workers: int | None) -> dict[str, Any]:
    languages = {"source": config.source, "target": config.target}
    train = [line for language in languages.values() for line in read_lines(texts / f"train.{language}")]
    model = subwords.learn(config.subword, config.subword_size, train, to)
    split_line = subwords.splitter(config.subword, model)
    counts: dict[str, int] = {}
    longest: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    for split in SPLITS:
        for side, language in languages.items():
            lines = map_lines(split_line, read_lines(texts / f"{split}.{language}"), workers)
            write_lines(to / f"{split}.{language}", lines)
            lengths = [len(line.split()) for line in lines]
            counts[f"{split}.{language}"] = sum(lengths)
            longest[split][side] = max(lengths) + 1  # as the model counts it: the end of the sentence is one more
    learned = subwords.learned_merges(model) if config.subword == "bpe" else config.subword_size
    return {"subword": {"model": model.name, "learned": learned, "subwords": counts}, "longest": longest}


def _manifest(
    config: CorpusConfig, key: dict[str, Any], texts: dict[str, Any], pieces: dict[str, Any], binary: dict[str, Any]
) -> dict[str, Any]:
    counts = texts["facts"]["counts"]
    expected = {split: getattr(config, f"expected_{split}") for split in SPLITS}
    differing = [
        f"{counts[split]['pairs']:,} of {wanted:,} {split} pairs"
        for split, wanted in expected.items()
        if wanted is not None and wanted != counts[split]["pairs"]
    ]
    return {
        "corpus": config.name,
        "source": config.source,
        "target": config.target,
        "counts": counts,
        "expected": expected,
        "note": ", ".join(differing),
        "notes": texts["facts"]["notes"],
        "lowercase": config.lowercase,
        "tokenizer": config.text_kind,
        "subword": {"kind": config.subword, "size": config.subword_size, **pieces["facts"]["subword"]},
        "longest": pieces["facts"]["longest"],
        "dictionary_types": binary["facts"]["dictionary_types"],
        "sha256": {
            f"{stage}/{name}": file["sha256"]
            for stage, record in (("tokenized", texts), ("subword", pieces), ("bin", binary))
            for name, file in record["files"].items()
        },
        "inputs": key["inputs"],
        "settings": {**key["settings"], **config.files()},  # files as the user named them, not as absolute paths
        "versions": key["versions"],
    }
