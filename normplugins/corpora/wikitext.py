"""WikiText-2 and WikiText-103: Wikipedia's good and featured articles, word level, rare words as <unk> already."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from normplugins.corpora.settings import TextConfig
from normplugins.utils.download import fetch
from normplugins.utils.errors import UserError

ARCHIVES = {"wikitext2": "wikitext-2-v1.zip", "wikitext103": "wikitext-103-v1.zip"}
# Of the files in the archives. WikiText-103's SHA-1 are those that GluonNLP publishes; its list for WikiText-2 is true
# of the files that have the SHA-256 below.
DIGESTS = {
    "wikitext2": {
        "train": "sha256:9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
        "valid": "sha256:f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        "test": "sha256:d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    },
    "wikitext103": {
        "train": "sha1:b7497e2dfe77e72cfef5e3dbc61b7b53712ac211",
        "valid": "sha1:c326ac59dc587676d58c422eb8a03e119582f92b",
        "test": "sha1:8a5befc548865cec54ed4273cf87dbbad60d1e47",
    },
}
_BLOCK = 1 << 20


def inputs(config: TextConfig, folder: Path, echo: Callable[[str], None]) -> dict[str, Path]:
    """Return the zip archive, fetched into ``folder`` if need be."""
    name = ARCHIVES[config.name]
    return {name: fetch(name, config.url or "", folder, echo)}


def source(config: TextConfig, files: dict[str, Path], split: str) -> tuple[str, Iterator[bytes]]:
    """Return where a split's text lies, for messages, and its lines as they are unpacked."""
    path, name = files[ARCHIVES[config.name]], f"wiki.{split}.tokens"
    return f"{path}:{name}", _lines(path, name)


def _lines(path: Path, name: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.namelist() if member.rpartition("/")[2] == name]
            if len(members) != 1:
                raise UserError(f"{path} is not a WikiText archive: it has {len(members) or 'no'} files {name}")
            with archive.open(members[0]) as packed, io.BufferedReader(packed, _BLOCK) as file:  # type: ignore[type-var]
                yield from file
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError, OSError) as error:
        raise UserError(f"{path} is truncated or no zip archive ({error}); get it again") from None
