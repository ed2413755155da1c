"""Reads text as strict UTF-8, and writes files atomically: a file appears complete or not at all."""

import errno
import gzip
import hashlib
import io
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from normplugins.utils.errors import UserError

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PLACE = {errno.ENOENT, errno.ENAMETOOLONG, errno.ENXIO, errno.EACCES, errno.EPERM, errno.EROFS}
_IN_THE_WAY = {errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP}
_BLOCK = 1 << 20  # bytes


def text_lines(raw: Iterable[bytes], where: str) -> Iterator[str]:
    """Decode UTF-8 lines that end in LF or CR LF, and drop a byte order mark.

    ``where`` names the file in the UserError for a line that is not UTF-8.
    """
    for number, line in enumerate(raw, 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"0x{error.object[error.start]:02x}"
            raise UserError(f"{where}, line {number}: not UTF-8 (byte {byte}); convert the file to UTF-8") from None
        yield (text.removeprefix("\ufeff") if number == 1 else text).removesuffix("\n").removesuffix("\r")


def refuse_stream(path: Path) -> None:
    """Raise OSError for a FIFO or a device: it cannot be read twice, and may never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.ESPIPE, "it is a FIFO or a device, and a regular file is needed", str(path))


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is truncated or not a gzip file ({error}); get it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def existing_file(path: Path, setting: str) -> Path:
    """Return ``path`` if it is a readable file. Otherwise raise a UserError that names the setting it comes from."""
    try:
        refuse_stream(path)
        path.open("rb").close()
    except FileNotFoundError:
        raise UserError(f"{setting}: there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{setting}: cannot read {path}: {error.strerror}") from None
    return path


def iter_byte_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, plain or ``.gz``, with their line endings.

    Raises UserError if the file cannot be read or is truncated.
    """
    with _read_errors(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield from io.BufferedReader(file, _BLOCK)


def iter_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, plain or ``.gz``. Raises UserError if it cannot be read or is not UTF-8."""
    return text_lines(iter_byte_lines(path), str(path))


def read_lines(path: Path) -> list[str]:
    """Return the lines of :func:`iter_lines` as a list."""
    return list(iter_lines(path))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines as UTF-8, each ended by LF."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def read_text(path: Path | None) -> tuple[list[str], str]:
    """Return the lines of a file, plain or ``.gz``, and its name for messages; None or ``-`` reads stdin.

    Raises UserError if the text cannot be read.
    """
    if path is None or str(path) == "-":
        return list(text_lines(sys.stdin.buffer, "stdin")), "stdin"
    return read_lines(path), str(path)


def write_text(path: Path | None, lines: Iterable[str]) -> None:
    """Write lines to a file atomically, or to stdout if ``path`` is None."""
    if path is None:
        sys.stdout.writelines(f"{line}\n" for line in lines)
        return
    with whole_file(path) as temporary:
        write_lines(temporary, lines)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; the target appears when it is complete."""
    with whole_file(target) as temporary:
        shutil.copyfile(source, temporary)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal. Raises UserError if the file cannot be read."""
    digest = hashlib.sha256()
    with _read_errors(path), path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn the OSError of a full disk or an impossible path into a UserError that names the path ``place``."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise UserError(f"no space left to write {place}: free some, and run the same command again") from error
        if error.errno not in _NO_PLACE | _IN_THE_WAY:
            raise
        named, remedy = error.filename, "name another place"
        if error.errno in _IN_THE_WAY:
            named, remedy = error.filename2 or named, f"move it away, or {remedy}"
        raise UserError(f"cannot write {place}: {error.strerror} ({named}); {remedy}") from error


def remove(path: Path) -> None:
    """Delete a file, or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, key: str = "", resumable: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``folder`` when the block succeeds.

    A UserError or OSError removes the temporary folder. After a kill or any other exception it stays, and the next call
    with the same ``key`` continues in it if ``resumable`` returns True for it.
    """
    temporary, old = folder.with_name(f".{folder.name}.{key}.tmp"), folder.with_name(f".{folder.name}.old")
    with disk_errors(folder):
        for left_over in (*folder.parent.glob(f".{escape(folder.name)}.*.tmp"), old):
            if left_over != temporary or not resumable(temporary):
                remove(left_over)
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            yield temporary
            if folder.exists():
                folder.rename(old)
            temporary.rename(folder)
            remove(old)
        except (UserError, OSError):
            remove(temporary)
            raise


@contextmanager
def whole_file(path: Path, follow: bool = True) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the block succeeds, and is removed otherwise.

    If ``path`` is a symbolic link, the file it points to is replaced; without ``follow``, the link itself. A FIFO or a
    device is yielded itself, and written directly.
    """
    with disk_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if path.exists() and not path.is_file():
            yield path
            return
        target = Path(os.path.realpath(path)) if follow else path
        temporary = target.with_name(f".{target.name}.tmp")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # a killed process may have left a link to another file
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
