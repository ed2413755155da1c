"""Multi30k German-English: 30,000 image captions, a small real corpus for runs on a CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import ClassVar

from normplugins.corpora.base import PublishedCorpus, archived, register, verified
from normplugins.corpora.parallel import Bitext, Pair, ParallelCorpus, zip_lines
from normplugins.utils.files import iter_byte_lines, text_lines

URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
TEST_PARTS = {
    "flickr2016": "test_2016_flickr",
    "flickr2017": "test_2017_flickr",
    "mscoco2017": "test_2017_mscoco",
    "flickr2018": "test_2018_flickr",
}
# Checksums of the unpacked files of task 1, because the same text can be compressed in many ways.
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


@register
@dataclass
class Multi30k(PublishedCorpus, ParallelCorpus):
    """The test split is the concatenation of all four test sets."""

    FILES: ClassVar = {f"{text}.gz": [f"{URL}/{text}.gz", archived(f"{URL}/{text}.gz")] for text in TEXT_SHA256}
    LANGUAGE_PAIRS: ClassVar = (("de", "en"), ("en", "de"))
    PUBLISHED: ClassVar = {"train": 29_000, "valid": 1_014, "test": 3_532}

    name: str = "multi30k"

    def read(self, files: Mapping[str, Path]) -> Bitext:
        """Read all splits. Raises UserError if the text differs from the published text, unless ``verify`` is off."""

        def where(part: str) -> tuple[str, str]:
            return str(files[f"{part}.{self.source}.gz"]), str(files[f"{part}.{self.target}.gz"])

        def pairs(part: str) -> list[Pair]:
            source, target = (text_lines(self._verified_lines(Path(path)), path) for path in where(part))
            return list(zip_lines(source, target, where(part)))

        train, valid = pairs("train"), pairs("val")
        tests = {name: pairs(part) for name, part in TEST_PARTS.items()}
        sources, targets = zip(*map(where, TEST_PARTS.values()), strict=True)
        wheres = {"train": where("train"), "valid": where("val"), "test": (", ".join(sources), ", ".join(targets))}
        test_sets = {name: len(test) for name, test in tests.items()}
        return Bitext(train, list(chain.from_iterable(tests.values())), wheres, valid, test_sets=test_sets)

    def check_file(self, path: Path) -> None:
        """Raise UserError for a downloaded file that is damaged or, with ``verify``, not the published one."""
        self._verified_lines(path)

    def _verified_lines(self, path: Path) -> list[bytes]:
        lines = iter_byte_lines(path)
        if self.verify:
            lines = verified(str(path), "Multi30k text", lines, TEXT_SHA256[path.name.removesuffix(".gz")])
        return list(lines)
