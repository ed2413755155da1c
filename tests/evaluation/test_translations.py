"""What is kept of a translation: whole and the same bytes each time, and enough to compute BLEU without references."""

import gzip

import numpy as np
import pytest
import sacrebleu

from normplugins.evaluation import translations
from normplugins.evaluation.translations import Translations, corpus_bleu, sentence_statistics
from normplugins.utils.errors import UserError

HYPOTHESES = ["the cat sat on a mat", "", "a b c d e f", "tab\tand \u2028 separator", "x"]
REFERENCES = ["the cat sat on the mat", "not translated", "a b c d e f", "tab and a separator", "y z"]


def sacrebleu_s(lines, references):
    return sacrebleu.metrics.BLEU(tokenize="none", force=True).corpus_score(lines, [references]).score


def test_statistics_worked_out_by_hand():
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples
    assert sentence_statistics(HYPOTHESES[:2], REFERENCES[:2]).tolist() == [
        [6, 6, 5, 3, 2, 1, 6, 5, 4, 3],
        [0, 2, 0, 0, 0, 0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("chosen", [[0], [1], [0, 1, 2, 3, 4], [2, 2, 0, 4], [4, 4, 4], [3, 1], []])
def test_bleu_of_any_resample_is_sacrebleu_s(chosen):
    statistics = sentence_statistics(HYPOTHESES, REFERENCES)[chosen]
    resampled = [[lines[index] for index in chosen] for lines in (HYPOTHESES, REFERENCES)]
    assert corpus_bleu(statistics) == (sacrebleu_s(*resampled) if chosen else 0.0)


def test_what_is_read_is_what_was_written_in_the_same_bytes(tmp_path):
    kept = Translations(HYPOTHESES, sentence_statistics(HYPOTHESES, REFERENCES))
    for name in ("one.tsv.gz", "other.tsv.gz"):
        translations.write(tmp_path / name, kept)
    assert (tmp_path / "one.tsv.gz").read_bytes() == (tmp_path / "other.tsv.gz").read_bytes()
    assert (tmp_path / "one.tsv.gz").read_bytes()[4:8] == bytes(4), "the time of writing"
    found = translations.read(tmp_path / "one.tsv.gz")
    assert found.lines == HYPOTHESES
    np.testing.assert_array_equal(found.statistics, kept.statistics)
    assert {path.name for path in tmp_path.iterdir()} == {"one.tsv.gz", "other.tsv.gz"}


@pytest.mark.parametrize("line", ["a b", "a b" + 9 * "\t1", "a b" + 9 * "\t1" + "\tx", "a b" + 9 * "\t1" + "\t-1"])
def test_another_file_is_refused_with_its_line(line, tmp_path):
    path = tmp_path / "seed1.last.tsv.gz"
    good = "a" + 10 * "\t0"
    path.write_bytes(gzip.compress(f"{good}\n{line}\n".encode()))
    with pytest.raises(UserError, match=r"seed1\.last\.tsv\.gz, line 2: .*10 whole numbers"):
        translations.read(path)
