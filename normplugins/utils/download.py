"""Files from a mirror folder or the network; an interrupted download is resumed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import requests
from rich.console import Console
from rich.progress import Progress

from normplugins import __version__
from normplugins.utils.errors import UserError
from normplugins.utils.files import disk_errors, sha256, whole_file

MIRROR = "NORMPLUGINS_MIRROR"
_ATTEMPTS = 3
_TIMEOUT = (20, 60)  # seconds to connect, and to wait for the next bytes
_BLOCK = 1 << 16  # bytes


def fetch(name: str, url: str, folder: Path, echo: Callable[[str], None]) -> Path:
    """Return ``folder/name`` after taking it from the mirror or downloading it from ``url``, if necessary.

    The parent of ``folder`` has the name of the corpus. A file in the mirror replaces a different one in ``folder``.
    Raises UserError if the file cannot be fetched.
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
    """Return ``name`` under ``$NORMPLUGINS_MIRROR``: in the folder of the corpus, at the top, or in any one folder."""
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
    by_hand = f"or put {path.name} into a folder and set {MIRROR} to that folder"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                total = _transfer(url, part, echo)
            except requests.HTTPError as error:
                response = error.response
                raise UserError(f"{url} answers {response.status_code} {response.reason}; {by_hand}") from None
            except requests.RequestException as error:
                if attempt < _ATTEMPTS:
                    continue
                reason = str(error).split("(Caused by")[-1].strip("() ")[:150]
                kept = f"; {size:,} bytes are kept, and the same command resumes there" if (size := _size(part)) else ""
                raise UserError(f"cannot download {url}: {reason}{kept}; {by_hand}") from None
            if total in (None, _size(part)):
                break
        else:
            raise UserError(f"{url} ended at {_size(part):,} of {total:,} bytes: the same command resumes there")
        part.replace(path)
        _version_file(part).unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _version_file(part: Path) -> Path:
    """Return where the server's version (ETag or date) of a partial download is kept."""
    return part.with_name(part.name + ".version")


def _transfer(url: str, part: Path, echo: Callable[[str], None]) -> int | None:
    """Append the missing bytes of ``url`` to ``part``; return the total size, None if the server does not send it."""
    held, version = _size(part), _version_file(part)
    # Servers often refuse the default user agent of a library.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"normplugins/{__version__}"}
    if held:
        headers["Range"] = f"bytes={held}-"
        if version.exists():  # otherwise a changed file would be appended to the start of the old one
            headers["If-Range"] = version.read_text()
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        content_range = response.headers.get("Content-Range", "")
        not_satisfiable = response.status_code == requests.codes.requested_range_not_satisfiable
        if not_satisfiable and content_range.rpartition("/")[2] == str(held):
            return held
        resumed = response.status_code == requests.codes.partial_content
        if not_satisfiable or (resumed and not content_range.startswith(f"bytes {held}-")):
            part.unlink()
            return _transfer(url, part, echo)
        response.raise_for_status()
        start = held if resumed else 0
        mark = response.headers.get("ETag", "")
        mark = response.headers.get("Last-Modified", "") if mark.startswith("W/") else mark
        version.write_text(mark) if mark else version.unlink(missing_ok=True)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        echo(f"{part.stem}: {'resuming' if resumed else 'downloading'} {url}")
        console = Console(stderr=True)
        with (
            Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
            part.open("ab" if resumed else "wb") as file,
        ):
            task = bar.add_task(part.stem, total=total, completed=start)
            for block in response.iter_content(_BLOCK):
                file.write(block)
                bar.advance(task, len(block))
    return total
