"""Files written side by side for a long time, and taken up again where they were last noted after a kill."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from normplugins.utils.files import whole_file

JOURNAL = "journal.json"


class Growing:
    """Text files of one folder that grow together; ``state`` is what their writer has to know to go on.

    ``state`` (of what JSON can hold) is that of the last ``note()`` when there is one in the folder, and the files are
    as long as they were then; otherwise it is the one given, and the files are empty.
    """

    def __init__(self, folder: Path, names: Iterable[str], state: dict[str, Any]) -> None:
        self._journal = folder / JOURNAL
        paths = {name: folder / name for name in names}
        sizes = dict.fromkeys(paths, 0)
        self.state, self.resumed = state, False
        if self._journal.is_file():
            noted = json.loads(self._journal.read_text(encoding="utf-8"))
            if all(path.is_file() and path.stat().st_size >= noted["bytes"][name] for name, path in paths.items()):
                self.state, sizes, self.resumed = noted["state"], noted["bytes"], True
        self._files = {name: path.open("r+b" if self.resumed else "wb") for name, path in paths.items()}
        for name, file in self._files.items():
            file.truncate(sizes[name])
            file.seek(sizes[name])

    def write(self, name: str, lines: Iterable[str]) -> None:
        """Add lines to a file, each ended by LF."""
        self._files[name].write("".join(f"{line}\n" for line in lines).encode())

    def note(self) -> None:
        """Make this the point from which a later call goes on."""
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
            with contextlib.nullcontext() if error is None else contextlib.suppress(OSError):  # full: said already
                file.close()
