"""Reads the translations that are kept with a record."""

import gzip
from pathlib import Path

import numpy as np
from sacrebleu.metrics import BLEU


def read_translations(path: Path) -> tuple[list[str], np.ndarray]:
    """The translations (N) and the statistics (N, 10) of their BLEU."""
    rows = [line.rsplit("\t", 10) for line in gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]]
    return [line for line, *_ in rows], np.array([[int(value) for value in row[1:]] for row in rows])


def corpus_bleu(statistics: np.ndarray) -> float:
    """The BLEU of the sentences with these statistics, as sacreBLEU computes it."""
    sys_len, ref_len, *ngrams = (int(value) for value in statistics.sum(axis=0))
    return BLEU.compute_bleu(ngrams[:4], ngrams[4:], sys_len, ref_len, smooth_method="exp").score
