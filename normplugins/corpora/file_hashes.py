"""SHA-256 digests of files, computed again only when a file's size or modification time has changed."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from normplugins.utils.errors import UserError
from normplugins.utils.files import sha256
from normplugins.utils.json_file import read_json_or_none, write_json


class FileHashes:
    """The digests of files with their sizes and modification times, stored in the JSON file ``store``.

    A missing or damaged store costs only time: the digests are computed again.
    """

    def __init__(self, store: Path) -> None:
        self._store, self._changed = store, False
        self._known: dict[str, list[Any]] = read_json_or_none(store) or {}

    def sha256(self, path: Path) -> str:
        """Return the digest of a file. Raises UserError if the file cannot be read."""
        size, time = _size_and_time(path)
        if self._known.get(self._key(path), [])[:2] != [size, time]:
            self.remember(path, sha256(path), (size, time))
        digest: str = self._known[self._key(path)][2]
        return digest

    def remember(self, path: Path, digest: str, size_and_time: tuple[int, int] | None = None) -> None:
        """Store a digest that has just been computed."""
        self._known[self._key(path)] = [*(size_and_time or _size_and_time(path)), digest]
        self._changed = True

    def save(self) -> None:
        """Write the digests of all files that still exist; if that is impossible, they are computed again next time."""
        if self._changed:
            with suppress(UserError):
                known = {key: entry for key, entry in self._known.items() if (self._store.parent / key).exists()}
                write_json(self._store, known)

    def _key(self, path: Path) -> str:
        folder = self._store.parent
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path.absolute())


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return the size in bytes and the modification time in nanoseconds, zeros if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
