"""SHA-256 digests of files, computed again only when a file's size or modification time has changed."""

from contextlib import suppress
from pathlib import Path

from normplugins.utils.errors import UserError
from normplugins.utils.files import sha256
from normplugins.utils.json_file import read_json_or_none, write_json


def stored_sha256(path: Path, store: Path) -> str:
    """Return the digest of a file, from the JSON file ``store`` if it has been computed since the file changed.

    A store that is missing, damaged or cannot be written costs only time. Raises UserError if the file cannot be read.
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
