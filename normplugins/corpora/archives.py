"""Reads text from .tgz and .zip archives, and from the SGML files in which IWSLT and WMT publish their test sets."""

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from normplugins.utils.errors import UserError
from normplugins.utils.files import refuse_stream, text_lines

_SEGMENT_TAG = re.compile(r'<seg id="[0-9]*">\s*|\s*</seg>\s*')
_BLOCK = 1 << 20  # bytes
_BUFFER = 1 << 16  # bytes; reading lines from zip files is slow without a buffer
_Member = tuple[str, Any]  # a file's name without its folder, and the opened file


def read_members(path: Path, names: Collection[str], discard: bool = False) -> dict[str, list[str]]:
    """Return the lines of the named files in an archive. Raises UserError if the archive is damaged or lacks a file.

    With ``discard``, the files are only unpacked, as a check of the archive, and their lists stay empty.
    """
    found: dict[str, list[str]] = {}
    with _members(path) as members:
        for name, file in members:
            if name in names:
                found[name] = [] if discard else list(text_lines(file, f"{path}:{name}"))
                while file.read(_BLOCK):  # a zip file's checksum is compared at the end of the member
                    pass
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{path} is not the published archive: it has no {', '.join(missing)}")
    return found


def iter_member(path: Path, name: str) -> Iterator[bytes]:
    """Yield the lines of one file in an archive, with their line endings, as it is unpacked."""
    with _members(path) as members:
        for found, file in members:
            if found == name:
                yield from file
                return
    raise UserError(f"{path} is not the published archive: it has no {name}")


def segments(lines: Iterable[str]) -> list[str]:
    """Return the text of each SGML line that holds a segment: ``<seg id="1"> text </seg>``."""
    return [_SEGMENT_TAG.sub("", line) for line in lines if "<seg id" in line]


@contextmanager
def _members(path: Path) -> Iterator[Iterator[_Member]]:
    """Yield the files of an archive. Its format is detected from its content, because mirrors repack files."""
    try:
        refuse_stream(path)
        yield _zip_members(path) if zipfile.is_zipfile(path) else _tgz_members(path)
    # RuntimeError: a zip file has an encrypted member, or one that is packed in an unknown way
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, OSError) as error:
        raise UserError(f"{path} cannot be read as a .tgz or .zip archive ({error}); get it again") from None


def _zip_members(path: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                opened: Any = archive.open(member)
                yield member.filename.rpartition("/")[2], io.BufferedReader(opened, _BUFFER)


def _tgz_members(path: Path) -> Iterator[_Member]:
    with gzip.open(path) as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
        for member in archive:
            if member.isfile():
                yield member.name.rpartition("/")[2], archive.extractfile(member)
        while packed.read(_BLOCK):  # gzip verifies the checksum at the end of the stream
            pass
