"""Preparing a corpus from its files to fairseq's data-bin, stage by stage, each skipped when already done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from normplugins.corpora import custom, demo, iwslt14, multi30k, subwords
from normplugins.corpora.binarize import binarize
from normplugins.corpora.bitext import Bitext, Tokenized, prepare_text
from normplugins.corpora.config import CorpusConfig
from normplugins.corpora.fetch import find_in_mirror
from normplugins.corpora.files import lock, read_lines, sha256, whole_file, whole_folder, write_lines
from normplugins.corpora.parallel import map_lines
from normplugins.corpora.tokenizer import detokenize, squeeze, tokenize
from normplugins.errors import UserError

CORPORA = {"iwslt14": iwslt14, "multi30k": multi30k, "demo": demo, "custom": custom}
SPLITS = ("train", "valid", "test")
_RECIPE = 2  # raise it when the same files and settings come to give other text, or other facts about it
_TOOLS = {"moses": ["sacremoses"], "bpe": ["subword-nmt"], "sentencepiece": ["sentencepiece"]}
Echo = Callable[[str], None]


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


def prepare(config: CorpusConfig, root: Path, echo: Echo = print, workers: int | None = None) -> PreparedCorpus:
    """Make sure that a corpus lies prepared under ``root/<name>/<variant>`` and return it.

    Stages that are done with the same settings and the same input files are not repeated. The bytes written do not
    depend on ``workers`` (default: all cores). Raises UserError for an unknown corpus and for bad input.
    """
    config.check()
    home = Path(root).absolute() / config.name
    with lock(home, echo):
        return _prepare(config, home, echo, workers)


def _prepare(config: CorpusConfig, home: Path, echo: Echo, workers: int | None) -> PreparedCorpus:
    module, folder = CORPORA[config.name], home / config.variant()
    held = _inodes(home / "raw")
    files = module.inputs(config, home / "raw", echo)
    now = _inodes(home / "raw")
    fetched = {name: path for name, path in files.items() if held.get(path) != now.get(path)}
    versions = {name: version(name) for name in _tools(config)}
    key: dict[str, Any] = {"recipe": _RECIPE, "settings": config.settings(), "versions": versions}
    key["verified"] = config.verify
    key |= {"inputs": {name: sha256(path) for name, path in files.items()}}

    def tokenized(to: Path) -> dict[str, Any]:
        echo(f"{config.name}: tokenizing")
        with _downloads_refused(fetched, config.name):
            bitext: Bitext = module.read(config, files)
        text = prepare_text(bitext, config, workers)
        with _downloads_refused(fetched, config.name):
            _check_test(config, text)
        return _write_text(text, config, to)

    def subworded(to: Path) -> dict[str, Any]:
        echo(f"{config.name}: learning {config.subword_size:,} joint {config.subword} subwords")
        return _split_words(config, folder / "tokenized", to, workers)

    def binarized(to: Path) -> dict[str, Any]:
        echo(f"{config.name}: binarizing")
        return {"dictionary_types": binarize(folder / "subword", to, config.source, config.target)}

    texts = _stage(folder / "tokenized", key, tokenized)
    pieces = _stage(folder / "subword", {"of": texts["fingerprint"]}, subworded)
    binary = _stage(folder / "bin", {"of": pieces["fingerprint"]}, binarized)
    manifest = _manifest(config, key, texts, pieces, binary)
    path = folder / "corpus.json"
    content = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        with whole_file(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    for line in (manifest["note"], *manifest["notes"]):
        if line:
            echo(f"{config.name}: {line}")
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


def _stage(folder: Path, key: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return the record of a stage, after building its folder unless it is there, whole, and of this key."""
    fingerprint = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    marker = folder / "stage.json"
    if marker.is_file():
        record: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
        sizes = {name: file["bytes"] for name, file in record["files"].items()}
        if record["fingerprint"] == fingerprint and sizes == _sizes(folder):
            return record
    with whole_folder(folder) as temporary:
        facts = build(temporary)
        files = {name: {"bytes": size, "sha256": sha256(temporary / name)} for name, size in _sizes(temporary).items()}
        record = {"fingerprint": fingerprint, "facts": facts, "files": files}
        (temporary / "stage.json").write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    return record


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != "stage.json"}


def _inodes(raw: Path) -> dict[Path, int]:
    """Return what tells a file from one fetched in its place; empty for a folder that is not there yet."""
    return {path: path.lstat().st_ino for path in raw.iterdir()} if raw.is_dir() else {}


@contextmanager
def _downloads_refused(fetched: dict[str, Path], corpus: str) -> Iterator[None]:
    """Remove what this call fetched when it proves bad, so that the same command fetches it again; no other file.

    The message names the mirror's file in place of its copy.
    """
    try:
        yield
    except UserError as error:
        message = str(error)
        for name, path in fetched.items():
            path.unlink(missing_ok=True)
            if mirrored := find_in_mirror(name, corpus):
                message = message.replace(str(path), str(mirrored))
        raise UserError(message) from None


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
