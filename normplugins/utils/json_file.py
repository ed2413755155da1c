"""JSON files that hold the state of a run or corpus: written atomically with a content hash, checked when read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normplugins.utils.errors import UserError
from normplugins.utils.files import whole_file

HASH = "content_sha256"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` together with its hash, atomically. Raises UserError if the file cannot be written."""
    sealed = {**content, HASH: json_digest(content)}
    with whole_file(path) as temporary:
        text = json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(f"{text}\n", encoding="utf-8")


def read_json(path: Path, remedy: str) -> dict[str, Any] | None:
    """Return the content of a file written by :func:`write_json`, or None if the file does not exist.

    A file without a hash, as older versions wrote it, is accepted. Raises UserError if the file cannot be read, is not
    a JSON object, or has been edited; ``remedy`` ends the message: what the user can do about it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged (not JSON in UTF-8): {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (not a JSON object): {remedy}")
    if HASH in content and content.pop(HASH) != json_digest(content):
        raise UserError(f"{path} has been changed since it was written: {remedy}")
    return content


def read_json_or_none(path: Path) -> dict[str, Any] | None:
    """Return the content of a file that can be regenerated, or None if it is missing or damaged."""
    try:
        return read_json(path, "")
    except UserError:
        return None


def json_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of ``content`` as JSON, in hexadecimal; it does not depend on the order of the keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
