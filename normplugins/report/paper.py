"""What the PowerNorm paper reports, and how well each of its numbers is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MARKS = {
    "S": "seen in a source",
    "D": "derived from numbers that were seen",
    "M": "recalled and not confirmed",
}
NAMES = {"ln": "LN", "bn": "BN", "bn_released": "BN", "pnv": "PN-V", "pn": "PN"}


@dataclass(frozen=True)
class Known:
    """A number of the paper and its mark, a key of ``MARKS``."""

    value: float
    mark: str

    def __post_init__(self) -> None:
        if self.mark not in MARKS:
            raise ValueError(f"unknown mark {self.mark!r}")


@dataclass(frozen=True)
class PaperCorpus:
    """One column of a table of the paper, and the experiment of ours that reproduces it.

    ``ends_by`` and ``ends_at`` say what ends the published training: patience, or so many epochs or updates. A run that
    ended otherwise was cut short. ``differences`` are to the LN row. ``metric`` is the key of the records' ``metrics``
    that the paper's number is of, where that is not the table's. ``footnotes`` are on single numbers, by norm.
    """

    experiment: str
    title: str
    ends_by: str
    numbers: Mapping[str, Known]
    differences: Mapping[str, Known]
    ends_at: int = 0
    metric: str = ""
    notes: tuple[str, ...] = ()
    footnotes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper: ``metric`` is the key of the records' ``metrics`` that it shows, ``norms`` are its rows."""

    title: str
    metric: str
    norms: tuple[str, ...]
    corpora: tuple[PaperCorpus, ...]
    also: tuple[str, ...] = field(default=())
    """other metrics of the records to show beside it"""


_BN = (
    "The released code calls `batch` what is `bn_released` here, which is most likely the paper's BN; `bn` is the "
    "usual BatchNorm. Both stand beside the same number of the paper."
)
_PNV = "No source found; by the paper's figure on batch sizes, as recalled, PN-V reaches LN at 4K tokens a batch."
_BOTH_BN = {"bn": _BN, "bn_released": _BN}

TABLES = (
    PaperTable(
        "Table 1: test BLEU (higher is better)",
        "bleu",
        tuple(NAMES),
        (
            PaperCorpus(
                "iwslt14",
                "IWSLT14 de-en",
                "patience",
                {
                    "ln": Known(35.5, "D"),
                    "bn": Known(34.4, "D"),
                    "bn_released": Known(34.4, "D"),
                    "pnv": Known(35.5, "M"),
                    "pn": Known(35.9, "D"),
                },
                {
                    "bn": Known(-1.1, "D"),
                    "bn_released": Known(-1.1, "D"),
                    "pnv": Known(0.0, "M"),
                    "pn": Known(0.4, "S"),
                },
                notes=("The authors' released PN checkpoint scores 35.87, with a brevity penalty of 0.961 (S).",),
                footnotes={**_BOTH_BN, "pnv": _PNV},
            ),
            PaperCorpus(
                "wmt14",
                "WMT14 en-de",
                "patience",
                {
                    "ln": Known(29.5, "D"),
                    "bn": Known(28.1, "D"),
                    "bn_released": Known(28.1, "D"),
                    "pn": Known(30.1, "S"),
                },
                {"bn": Known(-1.4, "D"), "bn_released": Known(-1.4, "D"), "pn": Known(0.6, "S")},
                metric="bleu_compound",
                notes=(
                    "Published on tokens with hyphenated compounds split: to be compared with BLEU counted so alone.",
                ),
                footnotes=_BOTH_BN,
            ),
        ),
        also=("sacrebleu",),
    ),
    PaperTable(
        "Table 2: test perplexity (lower is better)",
        "ppl",
        ("ln", "bn", "pnv", "pn"),
        (
            PaperCorpus(
                "ptb",
                "PTB",
                "max_update",
                {"ln": Known(53.2, "M"), "bn": Known(60.7, "M"), "pnv": Known(55.3, "M"), "pn": Known(47.6, "M")},
                {"bn": Known(7.5, "M"), "pnv": Known(2.1, "M"), "pn": Known(-5.6, "S")},
                ends_at=20_000,
                notes=("The authors of the tensorized transformer published 57.9 (S).",),
            ),
            PaperCorpus(
                "wikitext103",
                "WikiText-103",
                "max_update",
                {"ln": Known(20.9, "M"), "bn": Known(27.2, "M"), "pnv": Known(21.3, "M"), "pn": Known(17.9, "M")},
                {"bn": Known(6.3, "M"), "pnv": Known(0.4, "M"), "pn": Known(-3.0, "S")},
                ends_at=200_000,
                notes=("The authors of the tensorized transformer published 20.9 (S).",),
            ),
        ),
    ),
)

EXPERIMENTS = frozenset(corpus.experiment for table in TABLES for corpus in table.corpora)
