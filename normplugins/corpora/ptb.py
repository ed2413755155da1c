"""Penn Treebank as Mikolov prepared it: 10,000 types, numbers as N (PowerNorm paper, Table 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from normplugins.corpora.settings import TextConfig
from normplugins.corpora.stages import SPLITS
from normplugins.utils.download import fetch
from normplugins.utils.errors import UserError

DIGESTS = {
    "ptb": {
        "train": "sha256:fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        "valid": "sha256:c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        "test": "sha256:dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
    }
}


def inputs(config: TextConfig, folder: Path, echo: Callable[[str], None]) -> dict[str, Path]:
    """Return the three text files, fetched into ``folder`` if need be."""
    base = (config.url or "").rstrip("/")
    names = [f"ptb.{split}.txt" for split in SPLITS]
    return {name: fetch(name, f"{base}/{name}", folder, echo) for name in names}


def source(config: TextConfig, files: dict[str, Path], split: str) -> tuple[str, Iterator[bytes]]:  # noqa: ARG001
    """Return where a split's text lies, for messages, and its lines as they are read."""
    path = files[f"ptb.{split}.txt"]
    return str(path), _lines(path)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
