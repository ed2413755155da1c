"""Prepares a corpus, from its input files to fairseq's data-bin; complete stages are skipped."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from normplugins.corpora.base import Corpus
from normplugins.corpora.binarize import binarize
from normplugins.corpora.languages import has_spaces, score_words
from normplugins.corpora.parallel import ParallelCorpus
from normplugins.corpora.running_text import RunningText, prepare_running_text
from normplugins.corpora.stages import MANIFEST, Preparation, Prepared
from normplugins.corpora.subwords import FILES, PACKAGES
from normplugins.corpora.text_stages import write_subwords, write_tokens
from normplugins.corpora.tokenizer import detokenize, squeeze, tokenize
from normplugins.utils.errors import UserError
from normplugins.utils.files import sha256
from normplugins.utils.json_file import read_json_or_none
from normplugins.utils.locks import hold_lock
from normplugins.utils.paths import without_colon
from normplugins.utils.steps import Echo, step

_MODELS = set(FILES.values())


class PreparedCorpus(Prepared):
    """A corpus ready for fairseq's translation task, and the references for scoring its translations.

    ``bin_dir`` has one joined dictionary, stored under the names of both languages, ``source`` and ``target``.
    ``reference_tokens`` is the tokenized target side of the test set, one line per pair, with the case of the training
    text. ``reference_text`` is the same side as published, with its original case, which is scored with sacreBLEU's
    ``score_tokenizer``.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.source, self.target = str(self.manifest["source"]), str(self.manifest["target"])
        self.reference_tokens = self.folder / "tokenized" / f"reference.tokens.{self.target}"
        self.reference_text = self.folder / "tokenized" / f"reference.text.{self.target}"
        self.score_tokenizer = str(self.manifest.get("score_tokenizer", "13a"))

    def to_tokens(self, lines: Iterable[str]) -> list[str]:
        """Turn output lines (subwords already joined) into tokens, for scoring against ``reference_tokens``."""
        if self.manifest["tokenizer"] != "none":
            if not self.manifest["settings"].get("split_hyphens", False):
                return list(lines)
            lines = detokenize(lines, self.target)  # tokenized below with hyphens unsplit, as released for WMT14
        tokens = [tokenize(line, self.target) if has_spaces(self.target) else squeeze(line) for line in lines]
        return [line.lower() for line in tokens] if self.manifest["lowercase"] else tokens

    def score_words(self, lines: Sequence[str]) -> list[str]:
        """Return lines of plain text, split into words by :attr:`score_tokenizer` if the language has no spaces."""
        return list(lines) if has_spaces(self.target) else score_words(lines, self.score_tokenizer)

    def to_text(self, lines: Iterable[str]) -> list[str]:
        """Turn output lines (subwords already joined) into plain text, for scoring against ``reference_text``."""
        if self.manifest["tokenizer"] == "none":
            return [squeeze(line) for line in lines]
        return detokenize(lines, self.target)


def prepare(corpus: Corpus, root: Path, echo: Echo = print, workers: int | None = None) -> Prepared:
    """Prepare a corpus under ``root/<name>/<variant>`` and return it.

    Stages that are complete for the same settings and input files are not repeated. The bytes written do not depend on
    ``workers`` (default: all cores; running text uses one process). Raises UserError for bad settings and bad input,
    and for a ``root`` with a colon in its path.
    """
    corpus.check()
    home = without_colon("data_dir", root) / corpus.name
    with step(f"{corpus.name}: reading the prepared files", echo=None) as tell:

        def echo_and_show(text: str) -> None:
            echo(text)
            tell(text)

        waiting = f"which prepares {home}"
        with hold_lock(home / ".lock", lambda holder: echo_and_show(f"waiting for process {holder}, {waiting}")):
            if isinstance(corpus, RunningText):
                return prepare_running_text(corpus, home, echo_and_show)
            assert isinstance(corpus, ParallelCorpus)
            return _prepare_parallel(corpus, home, echo_and_show, workers)


def open_prepared(corpus: Corpus, root: Path) -> Prepared | None:
    """Return a corpus that has been prepared under ``root``, or None; its input files are not needed.

    An exception is the file ``corpus.codes``, whose content is a part of the folder's name. Only the dictionaries and
    the subword model are checked against the manifest, because new text needs no other file. Raises UserError for a
    ``root`` with a colon in its path.
    """
    folder = without_colon("data_dir", root) / corpus.name / corpus.variant()
    try:
        manifest = read_json_or_none(folder / MANIFEST) or {}
        used = [
            name for name in manifest["sha256"] if Path(name).name.startswith("dict.") or Path(name).name in _MODELS
        ]
        if any(sha256(folder / name) != manifest["sha256"][name] for name in used):
            return None
        return (Prepared if isinstance(corpus, RunningText) else PreparedCorpus)(folder, manifest)
    except (KeyError, TypeError, UserError):
        return None


def _prepare_parallel(corpus: ParallelCorpus, home: Path, echo: Echo, workers: int | None) -> PreparedCorpus:
    stages = Preparation(corpus, home, echo)
    # With raw text the references are still tokenized, and with given tokens they are still detokenized.
    tools = ["sacremoses", *(["regex"] if corpus.clean_punctuation else []), PACKAGES[corpus.subword], "fairseq"]
    key, folder = stages.key(tools), stages.folder

    def binarize_stage(to: Path) -> dict[str, Any]:
        echo(f"{corpus.name}: binarizing")
        return {"dictionary_types": binarize(folder / "subword", to, corpus.source, corpus.target)}

    tokens = stages.run("tokenized", key, partial(write_tokens, corpus, stages.files, echo, workers))
    work = partial(write_subwords, corpus, folder / "tokenized", echo, workers)
    subwords = stages.run("subword", {"of": tokens["fingerprint"]}, work)
    binary = stages.run("bin", {"of": subwords["fingerprint"]}, binarize_stage)
    manifest = _manifest(corpus, key, {"tokenized": tokens, "subword": subwords, "bin": binary})
    stages.write_manifest(manifest)
    return PreparedCorpus(folder, manifest)


def _manifest(corpus: ParallelCorpus, key: dict[str, Any], records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    tokens, subwords, binary = (record["facts"] for record in records.values())
    name = corpus.resolved_score_tokenizer
    pairs = {split: count["pairs"] for split, count in tokens["counts"].items()}
    return {
        "corpus": corpus.name,
        "source": corpus.source,
        "target": corpus.target,
        "counts": tokens["counts"],
        **({"test_sets": sets} if (sets := tokens.get("test_sets")) else {}),  # only if there are several
        "note": ", ".join(corpus.count_differences(pairs, " pairs")),
        "notes": tokens["notes"],
        "lowercase": corpus.lowercase,
        "tokenizer": corpus.tokenizer_of(corpus.target),
        **({"score_tokenizer": name} if name != "13a" else {}),
        "subword": {"kind": corpus.subword, "size": corpus.subword_size, **subwords["subword"]},
        "longest": subwords["longest"],
        "dictionary_types": binary["dictionary_types"],
        "sha256": {
            f"{stage}/{name}": file["sha256"]
            for stage, record in records.items()
            for name, file in record["files"].items()
        },
        "inputs": key["inputs"],
        "settings": {**key["settings"], **corpus.files()},  # files as the user named them, not as absolute paths
        "versions": key["versions"],
    }
