"""The stages of a preparation: input files, folders that are skipped when complete, and the manifest."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from normplugins.corpora.base import Corpus
from normplugins.corpora.split_writer import PROGRESS
from normplugins.utils.errors import UserError
from normplugins.utils.files import remove, sha256, whole_file, whole_folder
from normplugins.utils.json_file import json_digest, read_json_or_none, write_json
from normplugins.utils.steps import Echo

STAGE = "stage.json"
MANIFEST = "corpus.json"
HASHES = ".hashes.json"  # hashes of all files of a corpus, next to the folders of its variants


@dataclass
class Prepared:
    """A prepared corpus: its folder, whose ``bin_dir`` holds fairseq's data, and the content of its ``corpus.json``.

    The ``bin_dir`` of running text has dict.txt and {split}.{bin,idx}, for fairseq's language_modeling task.
    """

    folder: Path
    manifest: dict[str, Any]

    def __post_init__(self) -> None:
        self.bin_dir = self.folder / "bin"


class Preparation:
    """The preparation of one variant of a corpus under ``home``, in stages with a folder each.

    Attributes:
        folder: ``home/<variant>``.
        files: the input files by name, fetched into ``home/raw`` if necessary.
    """

    def __init__(self, corpus: Corpus, home: Path, echo: Echo) -> None:
        self.corpus, self.folder, self.echo = corpus, home / corpus.variant(), echo
        self._sha256 = partial(_stored_sha256, store=home / HASHES)
        self._raw = home / "raw"
        self.files = corpus.fetch_files(self._raw, echo)

    def key(self, tools: list[str]) -> dict[str, Any]:
        """Return everything that the first stage depends on; ``tools`` are Python packages."""
        return {
            "recipe": self.corpus.RECIPE,
            "settings": self.corpus.settings(),
            "versions": {name: version(name) for name in tools},
            "verified": getattr(self.corpus, "verify", True),
            "inputs": {name: self._sha256(path) for name, path in self.files.items()},
        }

    def run(self, stage: str, key: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Return the record of a stage. ``build`` fills its folder unless it is already complete and has the same key.

        A folder is complete if its files have not changed since the stage ended. If ``build`` records its progress, a
        killed call leaves its files, and the next call resumes there.
        """
        folder, fingerprint = self.folder / stage, json_digest(key)
        record = read_json_or_none(folder / STAGE)
        if record and record.get("fingerprint") == fingerprint:
            digests = {name: file["sha256"] for name, file in record["files"].items()}
            names = {path.name for path in _stage_files(folder)}
            changed = sorted(names ^ digests.keys()) or _differing(folder, digests, self._sha256)
            if not changed:
                remove(folder / PROGRESS)
                return record
            self.echo(f"{folder / changed[0]} has changed since it was prepared: {folder} is rebuilt")
        with whole_folder(folder, fingerprint[:8], lambda left: (left / PROGRESS).is_file()) as temporary:
            try:
                facts = build(temporary)
            except UserError as error:
                for path in self.files.values():
                    if path.parent == self._raw and str(path) in str(error):
                        raise UserError(f"{error}; delete {path} to fetch it again") from error
                raise
            files: dict[str, dict[str, Any]] = {
                path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in _stage_files(temporary)
            }
            record = {"fingerprint": fingerprint, "facts": facts, "files": files}
            write_json(temporary / STAGE, record)
        remove(folder / PROGRESS)  # only now, so that a call killed before this could be resumed
        return record

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Write ``corpus.json`` if its content has changed, and print its notes."""
        path, content = self.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        if not path.is_file() or path.read_bytes() != content.encode():
            with whole_file(path) as temporary:
                temporary.write_text(content, encoding="utf-8")
        for line in (manifest["note"], *manifest["notes"]):
            if line:
                self.echo(f"{manifest['corpus']}: {line}")


def changed_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the prepared files that differ from the manifest; their whole content is read.

    The manifest's digests ``text/...`` are skipped: they belong to text inside an input file.
    """
    digests = {name: digest for name, digest in manifest["sha256"].items() if not name.startswith("text/")}
    changed = _differing(folder, digests, sha256)
    if changed:  # otherwise the next call trusts a file whose size and modification time are as before
        remove(folder.parent / HASHES)
    return changed


def _stage_files(folder: Path) -> list[Path]:
    # hidden files are incomplete files of a killed call
    return [path for path in sorted(folder.glob("[!.]*")) if path.name not in (STAGE, PROGRESS)]


def _differing(folder: Path, digests: Mapping[str, str], digest_of: Callable[[Path], str]) -> list[str]:
    """Return the names of the files that have another digest or cannot be read."""
    differing = []
    for name, digest in digests.items():
        try:
            same = digest_of(folder / name) == digest
        except UserError:
            same = False
        if not same:
            differing.append(name)
    return differing


def _stored_sha256(path: Path, store: Path) -> str:
    """Return a file's digest: the one in the JSON file ``store`` unless its size or modification time has changed.

    If the store is missing, damaged or not writable, this only takes longer. Raises UserError if the file cannot be
    read.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    key = str(path.relative_to(store.parent) if path.is_relative_to(store.parent) else path.absolute())
    known = read_json_or_none(store) or {}
    *size_and_time, digest = known.get(key, [""])
    if size_and_time != [found.st_size, found.st_mtime_ns]:
        digest = sha256(path)
        existing = {name: entry for name, entry in known.items() if (store.parent / name).exists()}
        with suppress(UserError):
            write_json(store, {**existing, key: [found.st_size, found.st_mtime_ns, digest]})
    return str(digest)
