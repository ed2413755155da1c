"""Fetches files from a mirror folder, or from the first of several addresses that has them; resumes downloads."""

import os
from collections.abc import Callable, Sequence
from glob import escape
from pathlib import Path

import requests
from rich.progress import Progress

from normplugins import __version__
from normplugins.utils.errors import UserError
from normplugins.utils.files import copy_file, disk_errors, remove
from normplugins.utils.steps import live_display

MIRROR = "NORMPLUGINS_MIRROR"
_ATTEMPTS = 3
TIMEOUT = (20, 60)  # seconds to connect, and to wait for the next bytes
_BLOCK = 1 << 16  # bytes


def fetch(
    name: str,
    addresses: Sequence[str],
    folder: Path,
    echo: Callable[[str], None],
    check: Callable[[Path], None] = lambda _: None,
) -> Path:
    """Return ``folder/name``; if there is no such file, take it from the mirror or else download it.

    The parent of ``folder`` has the name of the corpus. Before a file is moved there, ``check`` raises UserError if it
    is damaged or not the wanted one. The addresses are tried in order, until one has a file that ``check`` accepts.
    Raises UserError if the file cannot be fetched, or ``check`` refuses the mirror's file.
    """
    path = folder / name
    if path.exists():
        return path
    if mirrored := find_in_mirror(name, folder.parent.name):
        check(mirrored)
        copy_file(mirrored, path)
        echo(f"{name}: taken from the mirror {mirrored.parent}")
    else:
        with disk_errors(path):
            _download(addresses, path, echo, check)
    return path


def own_file(path: str) -> Path:
    """Return the absolute path of a user's file in ``$NORMPLUGINS_MIRROR``, or in ``data/`` if that is unset."""
    return Path(os.environ.get(MIRROR) or "data").expanduser().absolute() / path


def find_in_mirror(name: str, corpus: str) -> Path | None:
    """Return ``name`` under ``$NORMPLUGINS_MIRROR``: in the corpus's folder, at the top, or in any other folder."""
    mirror = os.environ.get(MIRROR)
    if not mirror:
        return None
    root = Path(mirror).expanduser()
    if not root.is_dir():
        raise UserError(f"{MIRROR}={mirror} is not a folder: correct it, or unset it to download")
    for path in (root / corpus / name, root / name):
        if path.is_file():
            return path
    return next((path for path in sorted(root.rglob(name)) if path.is_file()), None)


def _download(addresses: Sequence[str], path: Path, echo: Callable[[str], None], check: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for number, url in enumerate(addresses, 1):
        # each address has its own partial file, because the addresses may pack the file differently
        part = path.with_name(f"{path.name}.part{number if number > 1 else ''}")
        try:
            _download_from(url, part, echo)
            _accept(url, part, path, check)
            return
        except UserError as error:
            failures.append(str(error))
        if number < len(addresses):
            echo(f"{failures[-1]}; trying the next address")
    by_hand = f"or put {path.name} into a folder and set {MIRROR} to that folder"
    raise UserError(f"{path.name} cannot be downloaded: {'; '.join(failures)}. Try again later, {by_hand}")


def _accept(url: str, part: Path, path: Path, check: Callable[[Path], None]) -> None:
    """Move a complete download to its place ``path`` if ``check`` accepts it."""
    # checked under its name in another folder, so that an interrupted check leaves no unchecked file in place
    unchecked = path.parent / "unchecked" / path.name
    unchecked.parent.mkdir(exist_ok=True)
    part.replace(unchecked)
    try:
        check(unchecked)
        unchecked.replace(path)
    except UserError as error:
        raise UserError(f"{url} returned another file ({error})") from None
    finally:
        remove(unchecked.parent)
    for left_over in path.parent.glob(f"{escape(path.name)}.part*"):
        left_over.unlink()


def _download_from(url: str, part: Path, echo: Callable[[str], None]) -> None:
    """Download ``url`` to ``part``, and resume a few times if the connection is lost. Raises UserError if it fails."""
    for _ in range(_ATTEMPTS):
        held = _size(part)
        try:
            total = _transfer(url, part, echo)
        except requests.RequestException as error:
            reason = str(error).split("(Caused by")[-1].strip("() ")[:150]
            failure = f"{url} cannot be downloaded ({reason})"
        else:
            if total in (None, _size(part)):
                return
            failure = f"{url} ended after {_size(part):,} of {total:,} bytes"
        if _size(part) <= held:
            break
    if size := _size(part):
        failure += f"; {size:,} bytes are kept, and the same command resumes there"
    raise UserError(failure)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _transfer(url: str, part: Path, echo: Callable[[str], None]) -> int | None:
    """Append the missing bytes of ``url`` to ``part``; return the total size, or None if the server omits it."""
    held, version = _size(part), part.with_name(f"{part.name}.version")  # holds the server's ETag or date
    # Servers often refuse the default user agent of a library.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"normplugins/{__version__}"}
    if held:
        headers["Range"] = f"bytes={held}-"
        if version.exists():  # otherwise a changed file would be appended to the start of the old one
            headers["If-Range"] = version.read_text()
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        content_range = response.headers.get("Content-Range", "")
        not_satisfiable = response.status_code == requests.codes.requested_range_not_satisfiable
        if not_satisfiable and content_range.rpartition("/")[2] == str(held):
            return held
        resumed = response.status_code == requests.codes.partial_content
        if held and (not_satisfiable or (resumed and not content_range.startswith(f"bytes {held}-"))):
            part.unlink()
            return _transfer(url, part, echo)
        if response.status_code not in (requests.codes.ok, requests.codes.partial_content):
            raise UserError(f"{url} returned {response.status_code} {response.reason}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise UserError(f"{url} returned a web page instead of the file")
        start = held if resumed else 0
        mark = response.headers.get("ETag", "")
        mark = response.headers.get("Last-Modified", "") if mark.startswith("W/") else mark
        version.write_text(mark) if mark else version.unlink(missing_ok=True)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        echo(f"{part.stem}: {'resuming' if resumed else 'downloading'} {url}")
        with (
            live_display(*Progress.get_default_columns()) as bar,
            part.open("ab" if resumed else "wb") as file,
        ):
            task = bar.add_task(part.stem, total=total, completed=start)
            for block in response.iter_content(_BLOCK):
                file.write(block)
                bar.advance(task, len(block))
    return total
