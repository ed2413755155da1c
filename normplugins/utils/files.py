"""Text in and out of files: strict UTF-8, whole or not at all, disk errors as one clear line."""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import io
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from normplugins.utils.errors import UserError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
_BLOCK = 1 << 20


def text_lines(raw: Iterable[bytes], where: str) -> Iterator[str]:
    """Decode lines of UTF-8 that end in LF or CR LF, a byte order mark dropped; raises UserError with the bad line."""
    for number, line in enumerate(raw, 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(where, number, error) from None
        yield (text.removeprefix("\ufeff") if number == 1 else text).removesuffix("\n").removesuffix("\r")


def decode_lines(data: bytes, where: str) -> list[str]:
    """Split the bytes of a whole file into lines, as ``text_lines`` does."""
    return list(text_lines(io.BytesIO(data), where))


def not_utf8(where: str, line: int, error: UnicodeDecodeError) -> UserError:
    """Return what to raise for a line (from 1) that is not UTF-8."""
    return UserError(
        f"{where}, line {line}: not UTF-8 (byte 0x{error.object[error.start]:02x}); convert the file to UTF-8"
    )


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is truncated or no gzip file ({error}); get it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def existing_file(path: Path, setting: str) -> Path:
    """Return a path that a setting names; raises UserError, with the setting, unless it is a file that can be read."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise UserError(f"{setting}: there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{setting}: cannot read {path}: {error.strerror}") from None
    return path


def read_bytes(path: Path) -> bytes:
    """Read a file, unpacked if it is a ``.gz``; raises UserError if it cannot be read or is truncated."""
    with _read_errors(path):
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data


def iter_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, plain or ``.gz``; raises UserError as ``read_bytes`` does, and if not UTF-8."""
    with _read_errors(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield from text_lines(io.BufferedReader(file, _BLOCK), str(path))


def read_lines(path: Path) -> list[str]:
    """Return the lines of ``iter_lines`` as a list."""
    return list(iter_lines(path))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines as UTF-8, each ended by LF."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex; raises UserError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn a full or read-only disk met while writing ``place`` into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise UserError(f"no space left to write {place}: free some, then give the same command again") from error
        if error.errno in _NOT_ALLOWED:
            raise UserError(f"not allowed to write {place}: {error.strerror}") from error
        raise


@contextmanager
def whole_folder(folder: Path, work: str = "", keep: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``folder`` when the block ends well, and goes away when it does not.

    Left over by a call that was killed, or broken off by anything but an error of the user's or of the disk, it is
    used again by the next call for the same ``work``, if ``keep`` holds for it.
    """
    temporary, old = folder.with_name(f".{folder.name}.{work}.tmp"), folder.with_name(f".{folder.name}.old")
    with disk_errors(folder):
        for left_over in (*folder.parent.glob(f".{folder.name}.*.tmp"), old):
            if left_over != temporary or not keep(temporary):
                shutil.rmtree(left_over, ignore_errors=True)
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            yield temporary
            if folder.exists():
                folder.rename(old)
            temporary.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        except (UserError, OSError):
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends well, and goes away when it does not."""
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def lock(folder: Path, echo: Callable[[str], None]) -> Iterator[None]:
    """Hold a folder alone; a second process says so and waits.

    POSIX record locks, not ``flock``: forked workers do not inherit them, so a killed call never leaves one behind.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            echo(f"another process ({file.read().strip() or 'unknown'}) prepares {folder}: waiting for it")
            fcntl.lockf(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(f"pid {os.getpid()}\n")
        file.flush()
        yield
