"""Multi30k German-English: 30,000 image captions, the small real corpus for runs on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from normplugins.corpora.bitext import Bitext, Pairs
from normplugins.corpora.config import CorpusConfig
from normplugins.corpora.fetch import fetch
from normplugins.corpora.files import read_lines
from normplugins.errors import UserError

LANGUAGES = ("de", "en")
PARTS = {"train": "train", "valid": "val", "test": "test_2016_flickr"}


def inputs(config: CorpusConfig, folder: Path, echo: Callable[[str], None]) -> dict[str, Path]:
    """Return the six gzipped text files, fetched into ``folder`` if need be."""
    if {config.source, config.target} != set(LANGUAGES):
        raise UserError(f"multi30k is German-English here: not {config.source}-{config.target}")
    names = [f"{part}.{language}.gz" for part in PARTS.values() for language in LANGUAGES]
    base = (config.url or "").rstrip("/")
    return {name: fetch(name, f"{base}/{name}", folder, echo) for name in names}


def read(config: CorpusConfig, files: dict[str, Path]) -> Bitext:
    """Read the three splits as they were published."""

    def pairs(part: str) -> Pairs:
        source, target = (files[f"{part}.{language}.gz"] for language in (config.source, config.target))
        return Pairs(read_lines(source), read_lines(target), (str(source), str(target)))

    return Bitext(**{split: pairs(part) for split, part in PARTS.items()})
