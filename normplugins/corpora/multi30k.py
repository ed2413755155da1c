"""Multi30k German-English: 30,000 image captions, the small real corpus for runs on a CPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from normplugins.corpora.bitext import Bitext, Pairs
from normplugins.corpora.config import CorpusConfig
from normplugins.corpora.fetch import fetch
from normplugins.corpora.files import decode_lines, read_bytes
from normplugins.errors import UserError

LANGUAGES = ("de", "en")
PARTS = {"train": "train", "valid": "val", "test": "test_2016_flickr"}
# Of the upstream files as of the 2016 task-1 release: of their text, since the same text can be packed in many ways.
TEXT_SHA256 = {
    "train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "test_2016_flickr.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
    "test_2016_flickr.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
}
USES: frozenset[str] = frozenset()


def check(config: CorpusConfig) -> None:
    """Raise UserError for settings that this corpus cannot be prepared with."""
    if {config.source, config.target} != set(LANGUAGES):
        raise UserError(f"multi30k is German-English here: de-en or en-de, not {config.source}-{config.target}")


def inputs(config: CorpusConfig, folder: Path, echo: Callable[[str], None]) -> dict[str, Path]:
    """Return the six gzipped text files, fetched into ``folder`` if need be."""
    names = [f"{part}.{language}.gz" for part in PARTS.values() for language in LANGUAGES]
    base = (config.url or "").rstrip("/")
    return {name: fetch(name, f"{base}/{name}", folder, echo) for name in names}


def read(config: CorpusConfig, files: dict[str, Path]) -> Bitext:
    """Read the three splits, and refuse other text than the published one unless ``verify`` is off."""

    def side(part: str, language: str) -> list[str]:
        path = files[f"{part}.{language}.gz"]
        data, wanted = read_bytes(path), TEXT_SHA256[f"{part}.{language}"]
        if config.verify and (found := hashlib.sha256(data).hexdigest()) != wanted:
            raise UserError(
                f"{path} is not the published Multi30k text: unpacked, its sha256 is {found}, not {wanted}; "
                "get the original file, or set corpus.verify=false to use this one"
            )
        return decode_lines(data, str(path))

    def pairs(part: str) -> Pairs:
        where = str(files[f"{part}.{config.source}.gz"]), str(files[f"{part}.{config.target}.gz"])
        return Pairs(side(part, config.source), side(part, config.target), where)

    return Bitext(**{split: pairs(part) for split, part in PARTS.items()})
