"""The user's own running text for language models: one file per split, plain or gzipped."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normplugins.corpora import subwords
from normplugins.corpora.base import SPLITS, register
from normplugins.corpora.running_text import RunningText
from normplugins.corpora.symbols import UNKNOWN
from normplugins.corpora.tokenizer import squeeze
from normplugins.utils.errors import UserError
from normplugins.utils.files import existing_file, iter_byte_lines, iter_lines
from normplugins.utils.json_file import json_digest
from normplugins.utils.settings import setting
from normplugins.utils.steps import Echo


@register
@dataclass
class CustomText(RunningText):
    """The user's text at word level, with words separated by spaces, or split into subwords."""

    name: str = "custom_lm"
    train: str | None = setting(None, "file of the training text")
    valid: str | None = setting(None, "file of the validation text")
    test: str | None = setting(None, "file of the test text")
    subword: str = setting(
        "none", "unit of the text: words, or subwords of this kind", choices=("none", *subwords.FILES)
    )
    subword_size: int = setting(8_000, "merges (bpe) or pieces (sentencepiece)", minimum=1)
    min_count: int = setting(
        1, "replace words that occur less often than this in the training text by <unk>", minimum=1
    )

    def check(self) -> None:
        """Raise UserError for settings that the corpus cannot be prepared with; the files are not opened."""
        super().check()
        if missing := [split for split in SPLITS if getattr(self, split) is None]:
            raise UserError(f"{self.name} needs a file of each split: set corpus.{missing[0]}=FILE")
        if self.level != "word" and self.min_count > 1:
            raise UserError(f"corpus.min_count is for words and has no effect on {self.subword} subwords")

    def fetch_files(self, raw: Path, echo: Echo) -> dict[str, Path]:  # noqa: ARG002
        """Return the file of each split."""
        return {
            split: existing_file(Path(getattr(self, split)).expanduser().absolute(), f"corpus.{split}")
            for split in SPLITS
        }

    def open_split(self, files: Mapping[str, Path], split: str) -> tuple[str, Iterator[bytes]]:
        """Return the file of a split, for messages, and an iterator over its lines."""
        return str(files[split]), iter_byte_lines(files[split])

    def notes(self, files: Mapping[str, Path], train: Counter[str], new: Mapping[str, int]) -> list[str]:
        """Report test lines that occur in the training text, and unknown words if that text has no ``<unk>``."""
        found = []
        if self.level == "word" and any(new.values()) and UNKNOWN not in train:
            found.append(
                f"the training text has no {UNKNOWN}, so its probability is not learned: set corpus.min_count=2"
            )
        test = [line for line in map(squeeze, iter_lines(files["test"])) if line]
        seen = set(test).intersection(map(squeeze, iter_lines(files["train"])))
        if also := sum(line in seen for line in test):
            found.append(f"{also:,} of {len(test):,} test lines also occur in the training text")
        return found

    def settings(self) -> dict[str, Any]:
        """Return everything that the prepared text depends on, except the input files."""
        files = {split: str(Path(str(getattr(self, split))).expanduser().absolute()) for split in SPLITS}
        size = {"min_count": self.min_count} if self.level == "word" else {"subword_size": self.subword_size}
        return {"level": self.level, **files, **size}

    def variant(self) -> str:
        """Return a readable folder name that ends in a digest of all settings."""
        return f"{self.level}{'' if self.level == 'word' else self.subword_size}-{json_digest(self.settings())[:8]}"
