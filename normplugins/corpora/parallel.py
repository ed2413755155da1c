"""Parallel corpora: sentence pairs, the settings they share, and the rules for dropping training pairs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count, zip_longest
from pathlib import Path
from typing import Any, ClassVar

from normplugins.corpora.base import SPLITS, Corpus
from normplugins.corpora.languages import SCORE_TOKENIZERS, check_score_tokenizer, default_score_tokenizer, has_spaces
from normplugins.corpora.subwords import count_merges
from normplugins.utils.errors import UserError
from normplugins.utils.files import existing_file, sha256
from normplugins.utils.json_file import json_digest
from normplugins.utils.settings import setting

_NOT_IN_VARIANT = {"name", "url", "verify", "score_tokenizer"}  # they do not change the prepared text
# The digest of every variant includes these settings, as null if a corpus does not have them, so that corpora prepared
# by older versions keep their folders.
_ALWAYS_IN_VARIANT: dict[str, Any] = {
    **dict.fromkeys(
        ("valid_every", *(f"{split}{end}" for end in ("", "_source", "_target", "_size") for split in SPLITS))
    ),
    "seed": 1,
}
# These settings were added later. For the same reason, the digest omits them at their original default.
_ADDED_LATER: dict[str, Any] = {
    "subword_min_count": 1,
    "codes": None,
    "clean_punctuation": False,
    "split_hyphens": False,
}

Pair = tuple[str, str]
NumberedPair = tuple[int, Pair]


@dataclass
class Bitext:
    """A corpus before tokenization.

    Attributes:
        train, test: the pairs of each split; the training pairs are read once, and may be streamed from disk.
        valid: the validation pairs, or None if IWSLT14's ``valid_every`` takes them from the clean training pairs.
        where: names of the source and target file of each split, for messages.
        test_sets: number of pairs of each test set in ``test``, in order; empty for a single test set.
        notes: what the user should know about how the corpus was read.
        numbers: the line numbers of a split's pairs in its file, where they are not consecutive.
    """

    train: Iterable[Pair]
    test: list[Pair]
    where: Mapping[str, tuple[str, str]]
    valid: list[Pair] | None = None
    test_sets: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    numbers: Mapping[str, Iterable[int]] = field(default_factory=dict)

    def numbered(self, split: str, pairs: Iterable[Pair]) -> Iterator[NumberedPair]:
        """Yield (line number, pair) for each pair of a split."""
        return zip(self.numbers.get(split, count(1)), pairs, strict=False)


def zip_lines(source: Iterable[str], target: Iterable[str], where: tuple[str, str]) -> Iterator[Pair]:
    """Yield the pairs of lines with the same number. Raises UserError at the end if one side has more lines."""
    read = [0, 0]
    for pair in zip_longest(source, target):
        for side, line in enumerate(pair):
            read[side] += line is not None
        if None not in pair:
            yield pair
    if read[0] != read[1]:
        raise UserError(
            f"{where[0]} has {read[0]:,} lines and {where[1]} has {read[1]:,}: "
            "line n of one must translate line n of the other"
        )


@dataclass
class ParallelCorpus(Corpus):
    """A corpus of sentence pairs and how it is tokenized, cleaned and split into subwords."""

    RECIPE: ClassVar = 4
    LANGUAGE_PAIRS: ClassVar[tuple[tuple[str, str], ...]] = ()
    """The pairs of source and target language that the corpus has; empty if it accepts any."""

    source: str = setting("de", "language code of the source side")
    target: str = setting("en", "language code of the target side")
    subword: str = setting("bpe", "joint subword model", choices=("bpe", "sentencepiece"))
    subword_size: int = setting(10_000, "merges (bpe) or pieces (sentencepiece)", minimum=1)
    subword_min_count: int = setting(
        1,
        "learn BPE only from words that occur at least this often in the training text; saves memory",
        minimum=1,
    )
    codes: str | None = setting(None, "file of BPE codes with subword_size merges, used instead of learning them")
    lowercase: bool = setting(True, "lower-case all text")
    tokenizer: str = setting(
        "auto",
        "moses tokenizes raw text, none leaves raw text to the subword model, given is for files that hold tokens; "
        "auto is moses with bpe and none with sentencepiece",
        choices=("auto", "moses", "none", "given"),
    )
    clean_punctuation: bool = setting(
        False, "normalize punctuation and drop non-printing characters in training and validation text, as Moses does"
    )
    split_hyphens: bool = setting(False, "split well-kept into well @-@ kept, as Moses' tokenizer -a does")
    max_length: int | None = setting(None, "drop training pairs with more words than this on a side", minimum=1)
    max_ratio: float | None = setting(None, "drop training pairs whose ratio of words is above this", minimum=1)
    score_tokenizer: str | None = setting(
        None,
        "sacreBLEU's tokenizer for scores on plain text; null: by the target language, 13a if it has spaces",
        choices=(None, *SCORE_TOKENIZERS),
    )

    def read(self, files: Mapping[str, Path]) -> Bitext:
        """Read the corpus from its input files."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise UserError for settings that the corpus cannot be prepared with, or that would have no effect."""
        super().check()
        if self.source == self.target:
            raise UserError(f"corpus.source and corpus.target are both {self.source!r}")
        for language in (self.source, self.target):
            # fairseq puts the languages into file names: train.de-en.de
            if not language.replace("_", "").isalnum():
                raise UserError(f"a language is a code such as de, not {language!r}")
        if self.LANGUAGE_PAIRS and (self.source, self.target) not in self.LANGUAGE_PAIRS:
            known = " or ".join("-".join(pair) for pair in self.LANGUAGE_PAIRS)
            raise UserError(f"{self.name} is {known}, not {self.source}-{self.target}")
        if self.subword != "bpe":
            for key, is_set in (("subword_min_count", self.subword_min_count > 1), ("codes", self.codes is not None)):
                if is_set:
                    raise UserError(f"corpus.{key} is for BPE and has no effect on {self.subword}")
        if self.codes is not None and (merges := count_merges(self._codes_file())) != self.subword_size:
            raise UserError(
                f"{self.codes} (corpus.codes) has {merges:,} merges, and corpus.subword_size is "
                f"{self.subword_size:,}: set corpus.subword_size={merges}"
            )
        for key in ("clean_punctuation", "split_hyphens"):
            if getattr(self, key) and self.resolved_tokenizer == "given":
                raise UserError(f"corpus.{key} is for raw text, but corpus.tokenizer=given is for tokens")
        check_score_tokenizer(self.resolved_score_tokenizer)
        whole = [language for language in self.without_blanks if self.tokenizer_of(language) == "none"]
        if whole and self.max_ratio:
            raise UserError(
                f"corpus.max_ratio compares numbers of words, but a line of {whole[0]} counts as one word: "
                "set corpus.max_ratio=null"
            )
        if whole and self.subword == "bpe" and self.subword_min_count > 1:
            raise UserError(
                f"corpus.subword_min_count={self.subword_min_count} would learn from few lines of {whole[0]}, because "
                "each line counts as one word. Set it to 1"
            )

    def adapt_test_line(self, line: str) -> str:
        """Return the form of a published test line that is tokenized, by default the line itself."""
        return line

    def verify_test(self, test: Sequence[Pair], where: tuple[str, str]) -> None:
        """Raise UserError if the tokenized test set, from the files ``where``, is not the published one."""
        wanted = self.published().get("test")
        if wanted not in (None, len(test)) and getattr(self, "verify", True):
            raise UserError(
                f"the test set of {self.name} has {len(test):,} pairs, not the published {wanted:,} "
                f"({where[0]}); get the original files, or set corpus.verify=false to use these"
            )

    @property
    def without_blanks(self) -> list[str]:
        """The languages of the pair that are written without spaces between words."""
        return [language for language in (self.source, self.target) if not has_spaces(language)]

    @property
    def resolved_tokenizer(self) -> str:
        """``moses``, ``none`` or ``given``: the value of ``tokenizer``, with ``auto`` resolved."""
        if self.tokenizer != "auto":
            return self.tokenizer
        return "moses" if self.subword == "bpe" else "none"

    @property
    def resolved_score_tokenizer(self) -> str:
        """sacreBLEU's tokenizer for scores on plain text."""
        return self.score_tokenizer or default_score_tokenizer(self.target)

    def tokenizer_of(self, language: str) -> str:
        """Return ``moses``, ``none`` or ``given`` for one language: Moses has no rules for languages without spaces."""
        if self.resolved_tokenizer == "moses" and not has_spaces(language):
            return "none"
        return self.resolved_tokenizer

    def language_notes(self) -> list[str]:
        """Describe what is done differently for languages that are written without spaces."""
        notes = []
        for language in self.without_blanks:
            done = ["lower-cased in its Latin letters too"] if self.lowercase else []
            if self.resolved_tokenizer == "moses":
                done.append("not tokenized by Moses")
            if self.clean_punctuation:
                done.append("its punctuation is not normalized")
            if self.tokenizer_of(language) == "none" and self.max_length:
                done.append("a line counts as one word in corpus.max_length")
            if language == self.target:
                name = self.resolved_score_tokenizer
                joined = "its tokens are joined and " if self.resolved_tokenizer == "given" else ""
                done.append(f"{joined}its plain text is scored with sacreBLEU's tokenizer {name}")
            if done:
                notes.append(f"{language} is written without spaces: {'; '.join(done)}")
        return notes

    def files(self) -> dict[str, str]:
        """Return the settings that name the user's own files."""
        return {}

    def _codes_file(self) -> Path:
        return existing_file(Path(str(self.codes)).expanduser(), "corpus.codes")

    def settings(self) -> dict[str, Any]:
        """Return everything that the prepared text depends on, except the input files."""
        own = {key: value for key, value in asdict(self).items() if key not in _NOT_IN_VARIANT}
        values = _ALWAYS_IN_VARIANT | {
            key: value for key, value in own.items() if key not in _ADDED_LATER or value != _ADDED_LATER[key]
        }
        for name, path in self.files().items():  # a relative path depends on the working directory
            values[name] = str(Path(path).expanduser().absolute())
        if self.codes is not None:  # identified by content; nothing is learned, so subword_min_count has no effect
            values["codes"] = sha256(self._codes_file())
            values.pop("subword_min_count", None)
        if self.without_blanks:
            values["without_blanks"] = self.without_blanks
        return values | {"tokenizer": self.resolved_tokenizer}

    def variant(self) -> str:
        """Return a readable folder name that ends in a digest of all settings."""
        return f"{self.source}-{self.target}-{self.subword}{self.subword_size}-{json_digest(self.settings())[:8]}"

    def clean(self, pairs: list[Pair]) -> tuple[list[Pair], dict[str, int]]:
        """Apply Moses' clean-corpus-n.perl to tokens.

        Returns the pairs that are kept, and the number of pairs dropped as ``empty`` and as ``over`` a limit.
        """
        max_length, max_ratio = self.max_length or float("inf"), self.max_ratio or float("inf")
        kept, dropped = [], {"empty": 0, "over": 0}
        for source, target in pairs:
            short, long = sorted((len(source.split()), len(target.split())))
            if not short:
                dropped["empty"] += 1
            elif long > max_length or long > max_ratio * short:
                dropped["over"] += 1
            else:
                kept.append((source, target))
        return kept, dropped

    def cleaning_notes(self, dropped: Mapping[str, int]) -> list[str]:
        """Describe how many training pairs ``clean`` dropped, and why."""
        notes = []
        if empty := dropped.get("empty"):
            notes.append(f"{empty:,} training pairs with an empty side dropped")
        if over := dropped.get("over"):
            limits = {"length": self.max_length, "ratio": self.max_ratio}
            exceeded = " or ".join(f"{name} {limit}" for name, limit in limits.items() if limit)
            notes.append(f"{over:,} training pairs over {exceeded} dropped")
        return notes
