"""Preparing a corpus from its files to fairseq's data-bin, stage by stage, each skipped when already done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload

from normplugins.corpora import custom, demo, iwslt14, multi30k, wmt14
from normplugins.corpora.binarize import binarize
from normplugins.corpora.bitext import Bitext, Pairs
from normplugins.corpora.running_text import TEXTS, PreparedText, prepare_running_text
from normplugins.corpora.settings import CorpusConfig, TextConfig
from normplugins.corpora.stages import SPLITS, Echo, conclude, downloads_refused, gather, stage
from normplugins.corpora.subword_stage import write_pieces
from normplugins.corpora.token_stage import write_texts
from normplugins.corpora.tokenizer import detokenize, squeeze, tokenize
from normplugins.utils.errors import UserError
from normplugins.utils.files import lock, sha256

CORPORA = {"iwslt14": iwslt14, "multi30k": multi30k, "wmt14": wmt14, "demo": demo, "custom": custom}
_RECIPE = 4  # raise it when the same files and settings come to give other text, or other facts about it
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
            if not self.manifest["settings"].get("split_hyphens", False):
                return list(lines)
            lines = detokenize(lines, self.target)  # and tokenized again with hyphens whole, as released for WMT14
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
        reading = partial(downloads_refused, fetched, config.name)
        with reading():
            bitext: Bitext = module.read(config, files)
        verify = partial(_check_test, config)
        return write_texts(bitext, config, to, reading=reading, verify=verify, echo=echo, workers=workers)

    def subworded(to: Path) -> dict[str, Any]:
        return write_pieces(config, folder / "tokenized", to, echo, workers)

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
    return ["sacremoses", *(["regex"] if config.clean_punctuation else []), *_TOOLS[config.subword], "fairseq"]


def _check_test(config: CorpusConfig, test: Pairs) -> None:
    if not config.verify:
        return
    if config.expected_test not in (None, len(test)):
        raise UserError(
            f"the test set of {config.name} has {len(test):,} pairs, not the published {config.expected_test:,} "
            f"({test.where[0]}); get the original files, or set corpus.verify=false to use these"
        )
    if hasattr(CORPORA[config.name], "verify"):
        CORPORA[config.name].verify(config, {config.source: test.source, config.target: test.target})


def _manifest(
    config: CorpusConfig, key: dict[str, Any], texts: dict[str, Any], pieces: dict[str, Any], binary: dict[str, Any]
) -> dict[str, Any]:
    counts = texts["facts"]["counts"]
    pairs = pieces["facts"]["pairs"]  # fewer, where pairs are cleaned by their subwords
    expected = {split: getattr(config, f"expected_{split}") for split in SPLITS}
    differing = [
        f"{pairs[split]:,} of {wanted:,} {split} pairs"
        for split, wanted in expected.items()
        if wanted is not None and wanted != pairs[split]
    ]
    return {
        "corpus": config.name,
        "source": config.source,
        "target": config.target,
        "counts": {split: count | {"pairs": pairs[split]} for split, count in counts.items()},
        **({"test_sets": sets} if (sets := texts["facts"].get("test_sets")) else {}),  # of a corpus with several
        "expected": expected,
        "note": ", ".join(differing),
        "notes": [*texts["facts"]["notes"], *pieces["facts"]["notes"]],
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
