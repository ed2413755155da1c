"""The stages of a preparation: input files, folders that are skipped when complete, and the manifest."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from normplugins.corpora.base import Corpus
from normplugins.corpora.split_writer import PROGRESS
from normplugins.utils.download import find_in_mirror
from normplugins.utils.errors import UserError
from normplugins.utils.file_hashes import FileHashes
from normplugins.utils.files import remove, sha256, whole_file, whole_folder
from normplugins.utils.json_file import json_digest, read_json_or_none, write_json
from normplugins.utils.steps import Echo

STAGE = "stage.json"
MANIFEST = "corpus.json"
HASHES = ".hashes.json"  # hashes of all files of a corpus, next to the folders of its variants


class Inputs:
    """The input files of a corpus by name, fetched into ``raw`` if necessary."""

    def __init__(self, corpus: Corpus, raw: Path, echo: Echo) -> None:
        self._raw = raw
        self.corpus, self.files = corpus, corpus.fetch_files(raw, echo)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Make UserErrors in this block name the mirror's file instead of its copy, which the next call overwrites.

        No file is removed: a damaged file never gets into ``raw``, and other settings may accept one that fails here.
        """
        try:
            yield
        except UserError as error:
            message = str(error)
            for name, path in self.files.items():
                if path.parent == self._raw and (mirrored := find_in_mirror(name, self.corpus.name)):
                    message = message.replace(str(path), str(mirrored))
            raise UserError(message) from None

    def stage_key(self, tools: list[str]) -> dict[str, Any]:
        """Return everything that the first stage depends on; ``tools`` are Python packages."""
        hashes = FileHashes(self._raw.parent / HASHES)
        inputs = {name: hashes.sha256(path) for name, path in self.files.items()}
        hashes.save()
        return {
            "recipe": self.corpus.RECIPE,
            "settings": self.corpus.settings(),
            "versions": {name: version(name) for name in tools},
            "verified": getattr(self.corpus, "verify", True),
            "inputs": inputs,
        }


def run_stage(
    folder: Path, key: dict[str, Any], build: Callable[[Path], dict[str, Any]], echo: Echo = print
) -> dict[str, Any]:
    """Return the record of a stage. ``build`` fills the folder unless it is already complete and has the same key.

    A folder is complete if its files have not changed since the stage ended. If ``build`` records its progress, a
    killed call leaves its files, and the next call resumes there.
    """
    fingerprint = json_digest(key)
    hashes = FileHashes(folder.parents[1] / HASHES)
    record = read_json_or_none(folder / STAGE)
    if record and record.get("fingerprint") == fingerprint:
        changed = _changed(folder, record["files"], hashes)
        hashes.save()
        if not changed:
            remove(folder / PROGRESS)
            return record
        echo(f"{folder / changed[0]} has changed since it was prepared: {folder} is rebuilt")
    with whole_folder(folder, fingerprint[:8], lambda left: (left / PROGRESS).is_file()) as temporary:
        facts = build(temporary)
        files: dict[str, dict[str, Any]] = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in _stage_files(temporary)
        }
        record = {"fingerprint": fingerprint, "facts": facts, "files": files}
        write_json(temporary / STAGE, record)
    remove(folder / PROGRESS)  # only now, so that a call killed before this could be resumed
    for name, file in files.items():
        hashes.remember(folder / name, file["sha256"])
    hashes.save()
    return record


def changed_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the prepared files that differ from the manifest; their whole content is read.

    The manifest's digests ``text/...`` are skipped: they belong to text inside an input file.
    """
    changed = [
        name
        for name, digest in manifest["sha256"].items()
        if not name.startswith("text/") and not _is_file_with(folder / name, digest, sha256)
    ]
    if changed:  # otherwise the next call trusts a file whose size and modification time are as before
        remove(folder.parent / HASHES)
    return changed


def write_manifest(folder: Path, manifest: dict[str, Any], echo: Echo) -> None:
    """Write ``corpus.json`` if its content has changed, and print its notes."""
    path, content = folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    if not path.is_file() or path.read_bytes() != content.encode():
        with whole_file(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    for line in (manifest["note"], *manifest["notes"]):
        if line:
            echo(f"{manifest['corpus']}: {line}")


def _stage_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.name not in (STAGE, PROGRESS)]


def _changed(folder: Path, files: dict[str, dict[str, Any]], hashes: FileHashes) -> list[str]:
    if names := {path.name for path in _stage_files(folder)} ^ files.keys():
        return sorted(names)
    return [name for name, file in files.items() if not _is_file_with(folder / name, file["sha256"], hashes.sha256)]


def _is_file_with(path: Path, digest: str, sha256: Callable[[Path], str]) -> bool:
    try:
        return sha256(path) == digest
    except UserError:
        return False
