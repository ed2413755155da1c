"""WikiText-2 and WikiText-103: good and featured Wikipedia articles at word level, with rare words as <unk>."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from normplugins.corpora.archives import iter_member
from normplugins.corpora.base import archived, register
from normplugins.corpora.running_text import PublishedText

_URLS = ("https://wikitext.smerity.com", archived("https://s3.amazonaws.com/research.metamind.io/wikitext"))
_HELD_OUT = {"valid tokens": 217_646, "valid lines": 3_760, "test tokens": 245_569, "test lines": 4_358}


class _WikiText(PublishedText):
    def open_split(self, files: Mapping[str, Path], split: str) -> tuple[str, Iterator[bytes]]:
        """Return the archive and member of a split, for messages, and an iterator over its lines."""
        (path,), name = files.values(), f"wiki.{split}.tokens"
        return f"{path}:{name}", iter_member(path, name)


@register
@dataclass
class WikiText2(_WikiText):
    """Two million words."""

    FILES: ClassVar = {"wikitext-2-v1.zip": [f"{url}/wikitext-2-v1.zip" for url in _URLS]}
    DIGESTS: ClassVar = {
        "train": "sha256:9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
        "valid": "sha256:f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        "test": "sha256:d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    }
    PUBLISHED: ClassVar = {"train tokens": 2_088_628, "train lines": 36_718, **_HELD_OUT, "types": 33_278}

    name: str = "wikitext2"


@register
@dataclass
class WikiText103(_WikiText):
    """101 million words; validation and test articles are those of WikiText-2."""

    FILES: ClassVar = {"wikitext-103-v1.zip": [f"{url}/wikitext-103-v1.zip" for url in _URLS]}
    # Published by GluonNLP. Its SHA-1 digests of WikiText-2 belong to the files with the SHA-256 digests above.
    DIGESTS: ClassVar = {
        "train": "sha1:b7497e2dfe77e72cfef5e3dbc61b7b53712ac211",
        "valid": "sha1:c326ac59dc587676d58c422eb8a03e119582f92b",
        "test": "sha1:8a5befc548865cec54ed4273cf87dbbad60d1e47",
    }
    PUBLISHED: ClassVar = {"train tokens": 103_227_021, "train lines": 1_801_350, **_HELD_OUT, "types": 267_735}

    name: str = "wikitext103"
