"""Text in .tgz archives, and in the SGML files that the test sets of IWSLT and WMT are published as."""

import gzip
import re
import tarfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from normplugins.utils.errors import UserError
from normplugins.utils.files import text_lines

_SEGMENT_TAG = re.compile(r'<seg id="[0-9]*">\s*|\s*</seg>\s*')
_BLOCK = 1 << 20  # bytes


def read_members(path: Path, names: Collection[str], discard: bool = False) -> dict[str, list[str]]:
    """Return the lines of these files of an archive. Raises UserError if the archive is damaged or lacks one.

    With ``discard`` the archive is checked as well, but the lines are not kept.
    """
    found: dict[str, list[str]] = {}
    with _open(path) as (archive, packed):
        for member in archive:
            if (name := _file_name(member)) in names and (file := archive.extractfile(member)):
                found[name] = [] if discard else list(text_lines(file, f"{path}:{name}"))
        while packed.read(_BLOCK):  # the checksum is behind the last byte
            pass
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{path} is not the published archive: it has no {', '.join(missing)}")
    return found


def iter_member(path: Path, name: str) -> Iterator[str]:
    """Yield the lines of one file of an archive while it is unpacked."""
    with _open(path) as (archive, _):
        for member in archive:
            if _file_name(member) == name and (file := archive.extractfile(member)):
                yield from text_lines(file, f"{path}:{name}")
                return


def segments(lines: Iterable[str]) -> list[str]:
    """Return the text of each SGML line that holds a segment: ``<seg id="1"> text </seg>``."""
    return [_SEGMENT_TAG.sub("", line) for line in lines if "<seg id" in line]


def straighten_apostrophes(line: str) -> str:
    """Replace typographic apostrophes, as fairseq's published recipes do in test sets."""
    return line.replace("’", "'")


@contextmanager
def _open(path: Path) -> Iterator[tuple[tarfile.TarFile, gzip.GzipFile]]:
    try:
        with gzip.open(path) as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
            yield archive, packed
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(f"{path} is truncated or no .tgz archive ({error}); get it again") from None


def _file_name(member: tarfile.TarInfo) -> str:
    return member.name.rpartition("/")[2] if member.isfile() else ""
