"""Files from elsewhere: a mirror folder first, then the network; resumed, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from normplugins import __version__
from normplugins.utils.errors import UserError
from normplugins.utils.files import disk_errors, sha256, whole_file

MIRROR = "NORMPLUGINS_MIRROR"
_ATTEMPTS = 3
_TIMEOUT = (20, 60)  # seconds to connect, and to wait for the next bytes
_BLOCK = 1 << 16


def fetch(name: str, url: str, folder: Path, echo: Callable[[str], None]) -> Path:
    """Return ``folder/name``, taken from the mirror, from an earlier call, or from ``url``.

    The parent of ``folder`` is named after the corpus, and so may a subfolder of the mirror be. A file in the mirror
    that differs from the one at hand replaces it. Raises UserError.
    """
    path = folder / name
    mirrored = find_in_mirror(name, folder.parent.name)
    if mirrored:
        wanted = sha256(mirrored)
        if not path.exists() or sha256(path) != wanted:
            with whole_file(path) as temporary:
                shutil.copyfile(mirrored, temporary)
            echo(f"{name}: taken from the mirror {mirrored.parent}")
    elif not path.exists():
        _download(url, path, echo)
    return path


def find_in_mirror(name: str, corpus: str) -> Path | None:
    """Return ``name`` under ``$NORMPLUGINS_MIRROR``: in its corpus's folder, at the top, or anywhere."""
    mirror = os.environ.get(MIRROR)
    if not mirror:
        return None
    root = Path(mirror).expanduser()
    if not root.is_dir():
        raise UserError(f"{MIRROR}={mirror} is not a folder: correct it, or unset it to download")
    for path in (root / corpus / name, root / name):
        if path.is_file():
            return path
    found = sorted(path for path in root.rglob(name) if path.is_file())
    if len(found) > 1:
        places = ", ".join(str(path.parent) for path in found)
        raise UserError(
            f"{name} lies in several folders of the mirror ({places}): put the right one in {root / corpus}"
        )
    return found[0] if found else None


def _download(url: str, path: Path, echo: Callable[[str], None]) -> None:
    part = path.with_name(path.name + ".part")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                total = _transfer(url, part, echo)
            except requests.HTTPError as error:
                response = error.response
                raise UserError(f"{url} answers {response.status_code} {response.reason}; {_by_hand(path)}") from None
            except requests.RequestException as error:
                if attempt < _ATTEMPTS:
                    continue
                reason = str(error).split("(Caused by")[-1].strip("() ")[:150]
                held = part.stat().st_size if part.exists() else 0
                kept = f"; {held:,} bytes are kept, and the same command goes on from there" if held else ""
                raise UserError(f"cannot download {url}: {reason}{kept}; {_by_hand(path)}") from None
            if total is None or part.stat().st_size == total:
                break
        else:
            raise UserError(
                f"{url} was broken off at {part.stat().st_size:,} of {total:,} bytes: "
                "the same command goes on from there"
            )
        part.replace(path)
        _version_file(part).unlink(missing_ok=True)


def _by_hand(path: Path) -> str:
    return f"or put {path.name} into a folder and set {MIRROR} to that folder"


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _transfer(url: str, part: Path, echo: Callable[[str], None]) -> int | None:
    """Fetch what is missing of ``url`` into ``part``; return the size of the whole, None if the server hides it."""
    held = part.stat().st_size if part.exists() else 0
    version = _version_file(part)
    # Servers often refuse the name that a library gives itself.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"normplugins/{__version__}"}
    if held:
        headers["Range"] = f"bytes={held}-"
        if version.exists():  # else a file changed on the server would be glued to the old one's start
            headers["If-Range"] = version.read_text()
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            whole = response.headers.get("Content-Range", "").rpartition("/")[2]
            if whole == str(held):
                return held
            part.unlink()
            return _transfer(url, part, echo)
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {held}-"):
            part.unlink()
            return _transfer(url, part, echo)
        if not resumed:
            held = 0
        mark = response.headers.get("ETag", "")
        mark = response.headers.get("Last-Modified", "") if mark.startswith("W/") else mark
        if mark:
            version.write_text(mark)
        else:
            version.unlink(missing_ok=True)
        length = response.headers.get("Content-Length")
        total = held + int(length) if length else None
        echo(f"{part.stem}: {'resuming' if resumed else 'downloading'} {url}")
        with _bar() as bar, part.open("ab" if resumed else "wb") as file:
            task = bar.add_task(part.stem, total=total, completed=held)
            for block in response.iter_content(_BLOCK):
                file.write(block)
                bar.advance(task, len(block))
    return total


def _bar() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    console = Console(stderr=True)
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
