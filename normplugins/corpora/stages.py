"""What preparing any corpus shares: input files, stages that are skipped when done, refused downloads, the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from normplugins.utils.append_only_log import JOURNAL
from normplugins.utils.download import find_in_mirror
from normplugins.utils.errors import UserError
from normplugins.utils.files import sha256, whole_file, whole_folder

SPLITS = ("train", "valid", "test")
Echo = Callable[[str], None]


def gather(inputs: Callable[[], dict[str, Path]], raw: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return a corpus's input files, and those among them that this call fetched into ``raw``."""
    held = _inodes(raw)
    files = inputs()
    now = _inodes(raw)
    return files, {name: path for name, path in files.items() if held.get(path) != now.get(path)}


def stage(folder: Path, key: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return the record of a stage, after building its folder unless it is there, whole, and of this key.

    What a killed call built of it is kept where ``build`` kept a journal, for ``build`` to go on from.
    """
    fingerprint = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    marker = folder / "stage.json"
    if marker.is_file():
        record: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
        sizes = {name: file["bytes"] for name, file in record["files"].items()}
        if record["fingerprint"] == fingerprint and sizes == _sizes(folder):
            (folder / JOURNAL).unlink(missing_ok=True)
            return record
    with whole_folder(folder, fingerprint[:8], lambda begun: (begun / JOURNAL).is_file()) as temporary:
        facts = build(temporary)
        files = {name: {"bytes": size, "sha256": sha256(temporary / name)} for name, size in _sizes(temporary).items()}
        record = {"fingerprint": fingerprint, "facts": facts, "files": files}
        (temporary / "stage.json").write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / JOURNAL).unlink(missing_ok=True)  # only now: killed before, the stage is still one to go on with
    return record


@contextmanager
def downloads_refused(fetched: dict[str, Path], corpus: str) -> Iterator[None]:
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


def conclude(folder: Path, manifest: dict[str, Any], echo: Echo) -> None:
    """Write ``corpus.json`` unless it says the same already, and say the notes in it."""
    path = folder / "corpus.json"
    content = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        with whole_file(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    for line in (manifest["note"], *manifest["notes"]):
        if line:
            echo(f"{manifest['corpus']}: {line}")


def _sizes(folder: Path) -> dict[str, int]:
    paths = (path for path in sorted(folder.iterdir()) if path.name not in ("stage.json", JOURNAL))
    return {path.name: path.stat().st_size for path in paths}


def _inodes(raw: Path) -> dict[Path, int]:
    """Return what tells a file from one fetched in its place; empty for a folder that is not there yet."""
    return {path: path.lstat().st_ino for path in raw.iterdir()} if raw.is_dir() else {}
