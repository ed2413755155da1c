"""Penn Treebank as prepared by Mikolov: 10,000 types, numbers as N (PowerNorm paper, Table 2)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from normplugins.corpora.base import SPLITS, register
from normplugins.corpora.running_text import PublishedText
from normplugins.utils.files import iter_byte_lines

# Both repositories hold the same files.
URLS = [f"https://raw.githubusercontent.com/{owner}/lstm/master/data" for owner in ("wojzaremba", "tomsercu")]


@register
@dataclass
class PennTreebank(PublishedText):
    """One plain text file per split."""

    FILES: ClassVar = {f"ptb.{split}.txt": [f"{url}/ptb.{split}.txt" for url in URLS] for split in SPLITS}
    DIGESTS: ClassVar = {
        "train": "sha256:fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        "valid": "sha256:c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        "test": "sha256:dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
    }
    PUBLISHED: ClassVar = {
        "train tokens": 929_589,
        "train lines": 42_068,
        "valid tokens": 73_760,
        "valid lines": 3_370,
        "test tokens": 82_430,
        "test lines": 3_761,
        "types": 10_000,
    }

    name: str = "ptb"

    def open_split(self, files: Mapping[str, Path], split: str) -> tuple[str, Iterator[bytes]]:
        """Return the file of a split, for messages, and an iterator over its lines."""
        path = files[f"ptb.{split}.txt"]
        return str(path), iter_byte_lines(path)
