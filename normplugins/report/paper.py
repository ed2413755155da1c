"""The numbers that the PowerNorm paper reports, and how well each of them is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MARKS = {"S": "seen in a source", "D": "derived from numbers that were seen", "M": "recalled and not confirmed"}
NAMES = {"ln": "LN", "bn": "BN", "bn_released": "BN", "pnv": "PN-V", "pn": "PN"}
"""The paper's name of each norm that it reports, in the order of its tables."""


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
    """A column of one of the paper's tables.

    Args:
        experiment: our experiment that reproduces it.
        title: the corpus as the paper names it.
        metric: the key of the records' ``metrics`` that the paper's numbers are comparable with.
        ends_by: the reason for which the published training ends; a run that ended otherwise was cut short.
        ends_at: the number of epochs or updates of the published training, where patience does not end it.
        numbers: the paper's numbers, by norm.
        differences: the paper's differences to its LN row, by norm.
        notes: what to say under the table.
        footnotes: notes on single numbers, by norm.
    """

    experiment: str
    title: str
    metric: str
    ends_by: str
    numbers: Mapping[str, Known]
    differences: Mapping[str, Known]
    ends_at: int = 0
    notes: tuple[str, ...] = ()
    footnotes: Mapping[str, str] = field(default_factory=dict)


def _known(mark: str, **numbers: float) -> dict[str, Known]:
    """Numbers with one mark; BN's stands beside both of our kinds of BN."""
    if "bn" in numbers:
        numbers["bn_released"] = numbers["bn"]
    return {norm: Known(value, mark) for norm, value in numbers.items()}


_BN = (
    "The released code calls `batch` what is `bn_released` here, which is most likely the paper's BN; `bn` is the "
    "usual BatchNorm. Both stand beside the same number of the paper."
)
_BN_LM = (
    "The paper's language-model code was never released. In its translation code, BN is what is `bn_released` here; "
    "`bn` is the usual BatchNorm. Both stand beside the same number of the paper."
)
_PNV = "No source found; by the paper's figure on batch sizes, as recalled, PN-V reaches LN at 4K tokens a batch."

TABLES = {
    "Table 1: test BLEU (higher is better)": (
        PaperCorpus(
            "iwslt14",
            "IWSLT14 de-en",
            "bleu",
            "patience",
            _known("D", ln=35.5, bn=34.4, pn=35.9) | _known("M", pnv=35.5),
            _known("D", bn=-1.1) | _known("M", pnv=0.0) | _known("S", pn=0.4),
            notes=("The authors' released PN checkpoint scores 35.87, with a brevity penalty of 0.961 (S).",),
            footnotes={"bn": _BN, "bn_released": _BN, "pnv": _PNV},
        ),
        PaperCorpus(
            "wmt14",
            "WMT14 en-de",
            "bleu_compound",
            "patience",
            _known("D", ln=29.5, bn=28.1) | _known("S", pn=30.1),
            _known("D", bn=-1.4) | _known("S", pn=0.6),
            notes=(
                "The paper's numbers are BLEU on tokens with hyphenated compounds split, and ours beside them too.",
            ),
            footnotes={"bn": _BN, "bn_released": _BN},
        ),
    ),
    "Table 2: test perplexity (lower is better)": (
        PaperCorpus(
            "ptb",
            "PTB",
            "ppl",
            "max_update",
            _known("M", ln=53.2, bn=60.7, pnv=55.3, pn=47.6),
            _known("M", bn=7.5, pnv=2.1) | _known("S", pn=-5.6),
            ends_at=20_000,
            notes=("The authors of the tensorized transformer published 57.9 (S).",),
            footnotes={"bn": _BN_LM, "bn_released": _BN_LM},
        ),
        PaperCorpus(
            "wikitext103",
            "WikiText-103",
            "ppl",
            "max_update",
            _known("M", ln=20.9, bn=27.2, pnv=21.3, pn=17.9),
            _known("M", bn=6.3, pnv=0.4) | _known("S", pn=-3.0),
            ends_at=200_000,
            notes=("The authors of the tensorized transformer published 20.9 (S).",),
            footnotes={"bn": _BN_LM, "bn_released": _BN_LM},
        ),
    ),
}
"""The paper's tables by their titles."""

CORPORA = {corpus.experiment: corpus for corpora in TABLES.values() for corpus in corpora}
"""The columns of the paper's tables, by the experiment that reproduces them."""
