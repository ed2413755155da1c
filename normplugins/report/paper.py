"""The numbers that the PowerNorm paper reports, and how well each of them is known."""

from collections.abc import Mapping
from dataclasses import dataclass

MARKS = {"S": "seen in a source", "D": "derived from numbers that were seen", "M": "recalled and not confirmed"}
NAMES = {"ln": "LN", "bn": "BN", "bn_released": "BN", "pnv": "PN-V", "pn": "PN"}
"""The paper's name of each norm that it reports, in the order of its tables; both of our BNs stand for its BN."""


@dataclass(frozen=True)
class PaperCorpus:
    """A column of one of the paper's tables.

    Args:
        experiment: our experiment that reproduces it.
        title: the corpus as the paper names it.
        metric: the key of the records' ``metrics`` with which the paper's numbers can be compared.
        ends_by: what ends the published training (``stopped_by`` in records); a run that ended otherwise was cut short.
        numbers: the paper's numbers, each with its key of ``MARKS``, by the paper's name of the norm.
        differences: the paper's differences from its LN row, in the same form.
        footnotes: notes on single numbers, by the paper's name of the norm.
        note: a note under the table.
        ends_at: the number of updates of the published training, if patience does not end it.
    """

    experiment: str
    title: str
    metric: str
    ends_by: str
    numbers: Mapping[str, str]
    differences: Mapping[str, str]
    footnotes: Mapping[str, str]
    note: str
    ends_at: int = 0


_BN = (
    "`bn_released` is the norm that the released code calls `batch`, most likely the paper's BN; `bn` is the usual "
    "BatchNorm. Both are compared with the same number of the paper."
)
_BN_LM = (
    "`bn_released` is the BN of the paper's translation code, and `bn` is the usual BatchNorm. The language-model code "
    "was never released, so both are compared with the same number of the paper."
)
_PNV = (
    "No source was found. As recalled, PN-V scores as well as LN at 4K tokens per batch in the paper's figure on batch "
    "sizes."
)

TABLES = {
    "Table 1: test BLEU (higher is better)": (
        PaperCorpus(
            *("iwslt14", "IWSLT14 de-en", "bleu", "patience"),
            {"LN": "35.5 D", "BN": "34.4 D", "PN-V": "35.5 M", "PN": "35.9 D"},
            {"BN": "-1.1 D", "PN-V": "+0.0 M", "PN": "+0.4 S"},
            {"BN": _BN, "PN-V": _PNV},
            "The authors' released PN checkpoint scores 35.87, with a brevity penalty of 0.961 (S).",
        ),
        PaperCorpus(
            *("wmt14", "WMT14 en-de", "bleu_compound", "patience"),
            {"LN": "29.5 D", "BN": "28.1 D", "PN": "30.1 S"},
            {"BN": "-1.4 D", "PN": "+0.6 S"},
            {"BN": _BN},
            "All numbers are BLEU on tokens, with hyphenated compounds split.",
        ),
    ),
    "Table 2: test perplexity (lower is better)": (
        PaperCorpus(
            *("ptb", "PTB", "ppl", "max_update"),
            {"LN": "53.2 M", "BN": "60.7 M", "PN-V": "55.3 M", "PN": "47.6 M"},
            {"BN": "+7.5 M", "PN-V": "+2.1 M", "PN": "-5.6 S"},
            {"BN": _BN_LM},
            "The authors of the tensorized transformer published 57.9 (S).",
            ends_at=20_000,
        ),
        PaperCorpus(
            *("wikitext103", "WikiText-103", "ppl", "max_update"),
            {"LN": "20.9 M", "BN": "27.2 M", "PN-V": "21.3 M", "PN": "17.9 M"},
            {"BN": "+6.3 M", "PN-V": "+0.4 M", "PN": "-3.0 S"},
            {"BN": _BN_LM},
            "The authors of the tensorized transformer published 20.9 (S).",
            ends_at=200_000,
        ),
    ),
}
"""The paper's tables by their titles."""

CORPORA = {corpus.experiment: corpus for corpora in TABLES.values() for corpus in corpora}
"""The columns of the paper's tables, by the experiment that reproduces them."""
