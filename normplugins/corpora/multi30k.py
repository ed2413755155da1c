"""Multi30k German-English: 30,000 image captions, the small real corpus for runs on a CPU.

The test split is all four test sets, one after the other; ``test_sets`` in the manifest says how long each is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from normplugins.corpora.bitext import Bitext, Pairs, joined
from normplugins.corpora.settings import CorpusConfig
from normplugins.utils.download import fetch
from normplugins.utils.errors import UserError
from normplugins.utils.files import decode_lines, read_bytes

LANGUAGES = ("de", "en")
PARTS = {"train": "train", "valid": "val"}
TEST_PARTS = {
    "flickr2016": "test_2016_flickr",
    "flickr2017": "test_2017_flickr",
    "mscoco2017": "test_2017_mscoco",
    "flickr2018": "test_2018_flickr",
}
# Of the upstream files of task 1: of their text, since the same text can be packed in many ways.
TEXT_SHA256 = {
    "train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "test_2016_flickr.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
    "test_2016_flickr.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    "test_2017_flickr.de": "c3078bc3b36808bf9d20eb2347ed6137016179ef59ec0d2b9b8ecc3fb2880081",
    "test_2017_flickr.en": "ce1450ddc5ab0834502579d77a170849952e15a2938b34cc503bdc25ebb4fb98",
    "test_2017_mscoco.de": "58277df3c75f92f7145a11b910b553d1cf82c439249d4dc237c899609eafac22",
    "test_2017_mscoco.en": "43051fdfa86fd5395182e718a94ca67b1b227b9f7c79596ff0f6b813216981d2",
    "test_2018_flickr.de": "39fcc8b3331d76fb42d648d019c6898b0d5e58baac87bc2a0bb93f44ec8db207",
    "test_2018_flickr.en": "4e585c2dd525911a6ea7730e9d0b516239af3f1b1ffae6a2130223cfb639f25e",
}
USES: frozenset[str] = frozenset()


def check(config: CorpusConfig) -> None:
    """Raise UserError for settings that this corpus cannot be prepared with."""
    if {config.source, config.target} != set(LANGUAGES):
        raise UserError(f"multi30k is German-English here: de-en or en-de, not {config.source}-{config.target}")


def inputs(config: CorpusConfig, folder: Path, echo: Callable[[str], None]) -> dict[str, Path]:
    """Return the twelve gzipped text files, fetched into ``folder`` if need be."""
    names = [f"{part}.{language}.gz" for part in (*PARTS.values(), *TEST_PARTS.values()) for language in LANGUAGES]
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

    splits = {split: pairs(part) for split, part in PARTS.items()}
    tests = {name: pairs(part) for name, part in TEST_PARTS.items()}
    test_sets = {name: len(test) for name, test in tests.items()}
    return Bitext(**splits, test=joined(tests.values()), test_sets=test_sets)
