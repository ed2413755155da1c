"""Text files that are written together over a long time and resumed at the last commit after a kill."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from normplugins.utils.files import whole_file

JOURNAL = "journal.json"


class AppendOnlyLog:
    """Text files of one folder that are appended to and committed together.

    ``state`` is JSON data that the writer needs to resume. If the folder has a journal, ``state`` is that of the last
    ``commit()``, ``resumed`` is True and the files are truncated to their length at that commit. Otherwise the files
    are empty and ``state`` is the initial one.
    """

    def __init__(self, folder: Path, names: Iterable[str], state: dict[str, Any]) -> None:
        self._journal = folder / JOURNAL
        paths = {name: folder / name for name in names}
        sizes = dict.fromkeys(paths, 0)
        self.state, self.resumed = state, False
        if self._journal.is_file():
            committed = json.loads(self._journal.read_text(encoding="utf-8"))
            if all(path.is_file() and path.stat().st_size >= committed["bytes"][name] for name, path in paths.items()):
                self.state, sizes, self.resumed = committed["state"], committed["bytes"], True
        self._files = {name: path.open("r+b" if self.resumed else "wb") for name, path in paths.items()}
        for name, file in self._files.items():
            file.truncate(sizes[name])
            file.seek(sizes[name])

    def write(self, name: str, lines: Iterable[str]) -> None:
        """Append lines to a file, each ended by LF."""
        self._files[name].write("".join(f"{line}\n" for line in lines).encode())

    def commit(self) -> None:
        """Record the current lengths and ``state`` as the point to resume from."""
        for file in self._files.values():
            file.flush()
        sizes = {name: file.tell() for name, file in self._files.items()}
        with whole_file(self._journal) as temporary:
            temporary.write_text(json.dumps({"state": self.state, "bytes": sizes}), encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            # Closing flushes: on a full disk it would replace the error that is already on its way.
            with contextlib.nullcontext() if error is None else contextlib.suppress(OSError):
                file.close()
