"""What can be chosen about a corpus: a flat dataclass per kind, its values per corpus in configs/corpus/*.yaml."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from typing_extensions import Self

from normplugins.corpora.subwords import count_merges
from normplugins.utils.errors import UserError
from normplugins.utils.files import existing_file, sha256

SUBWORDS = ("bpe", "sentencepiece")
TOKENIZERS = ("auto", "moses", "none", "given")
LENGTHS = ("words", "subwords")
# Settings that say where text comes from or what is expected of it, but do not change what is made of it.
# Settings that came later are left out at their default: what was prepared before keeps its folder.
_LATER = ("subword_min_count", "codes", "clean_punctuation", "split_hyphens", "length_in", "news_commentary")
_NOT_IN_VARIANT = {"name", "url", "verify", "expected_train", "expected_valid", "expected_test"}


@dataclass
class _Settings:
    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Build from any mapping (a composed Hydra node too); an unknown key raises a UserError with the known ones."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(str(key) for key in mapping if key not in known)
        if unknown:
            raise UserError(f"unknown corpus setting {', '.join(unknown)}; known: {', '.join(known)}")
        return cls(**{str(key): value for key, value in mapping.items()})


@dataclass
class CorpusConfig(_Settings):
    """One parallel corpus and how it is prepared.

    ``tokenizer``: ``moses`` tokenises raw text, ``none`` leaves raw text to the subword model, ``given`` says that the
    files hold tokens already; ``auto`` is ``moses`` with BPE and ``none`` with SentencePiece.
    ``subword_size``: merges for ``bpe``, pieces for ``sentencepiece``. ``subword_min_count``: BPE is learnt from words
    that the training text has so many times, which bounds the memory that this takes. ``codes``: a file of BPE codes to
    take instead of learning any, with ``subword_size`` merges in it.
    ``clean_punctuation`` (training and validation text) and ``split_hyphens`` (all text): Moses' scripts of these
    purposes.
    ``max_length`` and ``max_ratio`` (longer side / shorter side) clean the training text only; ``length_in`` says in
    what they count: ``words``, before subwords are learnt, or ``subwords``, which are then learnt on all of the text.
    ``valid_every``: every n-th cleaned training pair becomes the validation set, if there is no other.
    ``train``, ``valid``, ``test``: prefixes of a custom corpus (``prefix.de``, ``prefix.en``, each also as ``.gz``);
    ``*_source``, ``*_target``: the files themselves, when their names do not follow that rule.
    ``news_commentary``: the version of that part of WMT14's training text.
    ``*_size``: pairs to draw for a split without files (custom), or to generate (demo); ``seed`` drives both.
    ``expected_*``: published pairs; ``verify`` refuses a test set that is not the published one.
    """

    name: str = "demo"
    source: str = "de"
    target: str = "en"
    subword: str = "bpe"
    subword_size: int = 10000
    subword_min_count: int = 1
    codes: str | None = None
    lowercase: bool = True
    tokenizer: str = "auto"
    clean_punctuation: bool = False
    split_hyphens: bool = False
    length_in: str = "words"
    max_length: int | None = None
    max_ratio: float | None = None
    valid_every: int | None = None
    train: str | None = None
    valid: str | None = None
    test: str | None = None
    train_source: str | None = None
    train_target: str | None = None
    valid_source: str | None = None
    valid_target: str | None = None
    test_source: str | None = None
    test_target: str | None = None
    train_size: int | None = None
    valid_size: int | None = None
    test_size: int | None = None
    news_commentary: str | None = None
    seed: int = 1
    expected_train: int | None = None
    expected_valid: int | None = None
    expected_test: int | None = None
    verify: bool = True
    url: str | None = None

    def check(self) -> None:
        """Raise a UserError for a value that this corpus cannot be prepared with, or that would change nothing."""
        from normplugins.corpora.pipeline import CORPORA
        from normplugins.corpora.running_text import TEXTS

        if self.name not in CORPORA:
            raise UserError(f"unknown corpus {self.name!r}; known: {', '.join([*CORPORA, *TEXTS])}")
        for key, known in (("subword", SUBWORDS), ("tokenizer", TOKENIZERS), ("length_in", LENGTHS)):
            if getattr(self, key) not in known:
                raise UserError(f"unknown corpus.{key} {getattr(self, key)!r}; known: {', '.join(known)}")
        if self.source == self.target:
            raise UserError(f"corpus.source and corpus.target are both {self.source!r}")
        for language in (self.source, self.target):
            # fairseq puts the languages into file names: train.de-en.de
            if not isinstance(language, str) or not language.replace("_", "").isalnum():
                raise UserError(f"a language is a code such as de, not {language!r} (quote it in YAML: 'no')")
        minima = {"subword_size": 1, "subword_min_count": 1, "max_length": 1, "max_ratio": 1, "valid_every": 2}
        minima |= {"train_size": 1, "valid_size": 1, "test_size": 1}
        for key, least in minima.items():
            value = getattr(self, key)
            if value is not None and value < least:
                raise UserError(f"corpus.{key} is {value}, and must be at least {least}")
        if self.subword_min_count > 1 and self.subword != "bpe":
            raise UserError(f"corpus.subword_min_count is set, and changes nothing about {self.subword}")
        if self.codes is not None:
            self._check_codes(self.codes)
        for key in ("clean_punctuation", "split_hyphens"):
            if getattr(self, key) and self.text_kind == "given":
                raise UserError(f"corpus.{key} is for raw text, and corpus.tokenizer=given says that there are tokens")
        if self.valid_every and self.length_in != "words":
            raise UserError(
                "corpus.valid_every counts pairs that are clean by their words: it needs corpus.length_in=words"
            )
        for key in (*self.files(), "train_size", "valid_size", "test_size", "valid_every", "news_commentary"):
            if getattr(self, key) is not None and key not in CORPORA[self.name].USES:
                raise UserError(f"corpus.{key} is set, and changes nothing about {self.name}")
        CORPORA[self.name].check(self)

    def _check_codes(self, codes: str) -> None:
        if self.subword != "bpe":
            raise UserError(f"corpus.codes is a file of BPE codes, and changes nothing about {self.subword}")
        merges = count_merges(existing_file(Path(codes).expanduser(), "corpus.codes"))
        if merges != self.subword_size:
            raise UserError(
                f"{codes} (corpus.codes) has {merges:,} merges, and corpus.subword_size is {self.subword_size:,}: "
                f"set corpus.subword_size={merges}"
            )

    @property
    def text_kind(self) -> str:
        """``moses``, ``none`` or ``given``: ``tokenizer`` with ``auto`` decided."""
        if self.tokenizer != "auto":
            return self.tokenizer
        return "moses" if self.subword == "bpe" else "none"

    def files(self) -> dict[str, str]:
        """Return the settings that name files of a custom corpus, as the user gave them."""
        names = (f"{split}{side}" for split in ("train", "valid", "test") for side in ("", "_source", "_target"))
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def settings(self) -> dict[str, Any]:
        """Return everything that the prepared text depends on, besides the corpus files themselves."""
        values = {key: value for key, value in asdict(self).items() if key not in _NOT_IN_VARIANT}
        defaults = {field.name: field.default for field in fields(self)}
        values = {key: value for key, value in values.items() if key not in _LATER or value != defaults[key]}
        for name, path in self.files().items():  # the same relative path means another corpus in another folder
            values[name] = str(Path(path).expanduser().absolute())
        if self.codes is not None:  # the same codes make the same text, wherever the file lies, and nothing is learnt
            values["codes"] = sha256(existing_file(Path(self.codes).expanduser(), "corpus.codes"))
            values.pop("subword_min_count", None)
        return values | {"tokenizer": self.text_kind}

    def variant(self) -> str:
        """Return a folder name that no other settings share: readable first, then a digest of all of them."""
        digest = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.source}-{self.target}-{self.subword}{self.subword_size}-{digest}"


@dataclass
class TextConfig(_Settings):
    """One corpus of running text: words as they are in its files, each line ended by one symbol.

    ``expected_*``: published counts, a token being a word or the end of a line; ``expected_types``: different tokens
    of the training text, that end among them. ``verify`` refuses a text that is not the published one.
    """

    name: str = "ptb"
    expected_train_lines: int | None = None
    expected_train_tokens: int | None = None
    expected_valid_lines: int | None = None
    expected_valid_tokens: int | None = None
    expected_test_lines: int | None = None
    expected_test_tokens: int | None = None
    expected_types: int | None = None
    verify: bool = True
    url: str | None = None

    def check(self) -> None:
        """Raise a UserError for a corpus that is not known."""
        from normplugins.corpora.running_text import TEXTS

        if self.name not in TEXTS:
            raise UserError(f"unknown text corpus {self.name!r}; known: {', '.join(TEXTS)}")

    def expected(self) -> dict[str, int | None]:
        """Return the published counts by what they count: ``train tokens``, ``train lines``, ..., ``types``."""
        names = [f"{split} {unit}" for split in ("train", "valid", "test") for unit in ("tokens", "lines")]
        return {name: getattr(self, f"expected_{name.replace(' ', '_')}") for name in (*names, "types")}

    def settings(self) -> dict[str, Any]:
        """Return everything that the numbers depend on, besides the corpus files themselves."""
        return {"level": "word"}

    def variant(self) -> str:
        """Return the folder name of these settings."""
        return "word"
