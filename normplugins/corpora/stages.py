"""Preparation in stages: input files, folders that are skipped when complete, and the manifest."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from normplugins.corpora.base import Corpus, Echo
from normplugins.corpora.split_writer import PROGRESS
from normplugins.utils.download import find_in_mirror
from normplugins.utils.errors import UserError
from normplugins.utils.files import sha256, whole_file, whole_folder


class Inputs:
    """The input files of a corpus by name, fetched into ``raw`` if necessary."""

    def __init__(self, corpus: Corpus, raw: Path, echo: Echo) -> None:
        # A file's inode tells whether another file was fetched in its place.
        before = {path: path.lstat().st_ino for path in raw.iterdir()} if raw.is_dir() else {}
        self.corpus, self.files = corpus, corpus.fetch_files(raw, echo)
        self._fetched = {
            name: path
            for name, path in self.files.items()
            if path.parent == raw and before.get(path) != path.lstat().st_ino
        }

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Remove the fetched files if they prove bad in this block, so that the same command fetches them again.

        The message names the mirror's file instead of its copy.
        """
        try:
            yield
        except UserError as error:
            message = str(error)
            for name, path in self._fetched.items():
                path.unlink(missing_ok=True)
                if mirrored := find_in_mirror(name, self.corpus.name):
                    message = message.replace(str(path), str(mirrored))
            raise UserError(message) from None

    def stage_key(self, recipe: int, tools: list[str]) -> dict[str, Any]:
        """Return everything that the first stage depends on; ``tools`` are Python packages."""
        return {
            "recipe": recipe,
            "settings": self.corpus.settings(),
            "versions": {name: version(name) for name in tools},
            "verified": getattr(self.corpus, "verify", True),
            "inputs": {name: sha256(path) for name, path in self.files.items()},
        }


def run_stage(folder: Path, key: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return the record of a stage. ``build`` fills the folder unless it is complete and was built with the same key.

    If ``build`` records its progress, a killed call leaves its files for the next one to resume.
    """
    fingerprint = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    marker = folder / "stage.json"
    if marker.is_file():
        record: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
        sizes = {name: file["bytes"] for name, file in record["files"].items()}
        if record["fingerprint"] == fingerprint and sizes == _sizes(folder):
            (folder / PROGRESS).unlink(missing_ok=True)
            return record
    with whole_folder(folder, fingerprint[:8], lambda left: (left / PROGRESS).is_file()) as temporary:
        facts = build(temporary)
        files = {name: {"bytes": size, "sha256": sha256(temporary / name)} for name, size in _sizes(temporary).items()}
        record = {"fingerprint": fingerprint, "facts": facts, "files": files}
        (temporary / "stage.json").write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / PROGRESS).unlink(missing_ok=True)  # not earlier: a killed call can then still be resumed
    return record


def write_manifest(folder: Path, manifest: dict[str, Any], echo: Echo) -> None:
    """Write ``corpus.json`` if it differs, and print the notes in it."""
    path = folder / "corpus.json"
    content = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        with whole_file(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    for line in (manifest["note"], *manifest["notes"]):
        if line:
            echo(f"{manifest['corpus']}: {line}")


def _sizes(folder: Path) -> dict[str, int]:
    paths = (path for path in sorted(folder.iterdir()) if path.name not in ("stage.json", PROGRESS))
    return {path.name: path.stat().st_size for path in paths}
