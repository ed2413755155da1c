"""The translations that a published record keeps, with what a test of significance needs of the references.

A gzip file of one line a sentence, in the order of the test set, whose columns are separated by tabs: the translation
as the model wrote it, subwords joined, then sacreBLEU's sufficient statistics of the sentence for the record's own BLEU
(``bleu`` or ``bleu_compound``): ``COLUMNS``. The BLEU of any set of sentences, resampled or not, is that of the sum
of their statistics. The references are other people's text and are not kept. Equal content makes equal bytes.
"""

import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU

from normplugins.utils.errors import UserError
from normplugins.utils.files import iter_lines, whole_file

COLUMNS = ("sys_len", "ref_len", *(f"{kind}{order}" for kind in ("count", "total") for order in (1, 2, 3, 4)))


@dataclass(frozen=True)
class Translations:
    """``lines``: N translations; ``statistics``: their sufficient statistics, (N, 10), the columns of ``COLUMNS``."""

    lines: list[str]
    statistics: NDArray[np.int64]


def sentence_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> NDArray[np.int64]:
    """The statistics, (N, 10), of N lines of tokens, which are scored as they are."""
    metric = BLEU(tokenize="none", force=True, effective_order=True)  # the order has no influence on the statistics
    scores = [metric.sentence_score(line, [reference]) for line, reference in zip(hypotheses, references, strict=True)]
    rows = [[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores]
    return np.array(rows, dtype=np.int64).reshape(-1, len(COLUMNS))


def corpus_bleu(statistics: NDArray[np.int64]) -> float:
    """Corpus BLEU of the sentences with these statistics, (N, 10), as ``sacrebleu.metrics.BLEU`` computes it."""
    sys_len, ref_len, *ngrams = (int(value) for value in statistics.sum(axis=0))
    return float(BLEU.compute_bleu(ngrams[:4], ngrams[4:], sys_len, ref_len, smooth_method="exp").score)


def write(path: Path, translations: Translations) -> None:
    """Write the file whole or not at all; raises UserError when the disk is full or may not be written."""
    rows = zip(translations.lines, translations.statistics.tolist(), strict=True)
    text = "".join(f"{line}\t{_joined(row)}\n" for line, row in rows)
    with whole_file(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))


def read(path: Path) -> Translations:
    """Read what ``write`` wrote.

    Raises:
        UserError: the file cannot be read, or a line does not hold a translation and ten whole numbers.
    """
    lines, statistics = [], []
    for number, line in enumerate(iter_lines(path), 1):
        text, *values = line.rsplit("\t", len(COLUMNS))
        if len(values) != len(COLUMNS) or not all(value.isdecimal() for value in values):
            raise UserError(f"{path}, line {number}: a translation and {len(COLUMNS)} whole numbers are needed")
        lines.append(text)
        statistics.append([int(value) for value in values])
    return Translations(lines, np.array(statistics, dtype=np.int64).reshape(-1, len(COLUMNS)))


def _joined(row: Iterable[int]) -> str:
    return "\t".join(map(str, row))
