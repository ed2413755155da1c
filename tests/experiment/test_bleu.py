"""BLEU against figures worked out by hand, and translations in the corpus's order."""

import math

import pytest
from omegaconf import OmegaConf

from normplugins.corpora import CorpusConfig, prepare
from normplugins.experiment import checkpoints
from normplugins.experiment.bleu import Search, as_metrics, bleu, translate


def test_bleu_worked_out_by_hand():
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples; no shorter than the reference
    score = bleu(["the cat sat on a mat"], ["the cat sat on the mat"], tokenize="none")
    assert score.score == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25, abs=1e-9)
    assert score.precisions == [83.33, 60.0, 50.0, 33.33]
    assert (score.brevity_penalty, score.system_length, score.reference_length) == (1.0, 6, 6)


def test_bleu_of_a_short_translation():
    score = bleu(["a b c d"], ["a b c d e"], tokenize="none")
    assert score.score == pytest.approx(100 * math.exp(1 - 5 / 4), abs=1e-9)
    assert score.brevity_penalty == pytest.approx(math.exp(-0.25), abs=1e-4)


def test_bleu_counts_over_the_corpus_and_not_the_mean_of_sentences():
    hypotheses, references = ["a b c d e", "x"], ["a b c d e", "y"]
    score = bleu(hypotheses, references, tokenize="none")
    assert score.score == pytest.approx(100 * (5 / 6) ** 0.25, abs=1e-9)


def test_case_and_tokens():
    assert bleu(["A b c d."], ["a B c d ."], lowercase=True).score == pytest.approx(100)
    assert bleu(["A b c d ."], ["a B c d ."], tokenize="none").score < 100
    assert "tok:13a" in bleu(["a"], ["a"]).signature
    assert str(bleu(["a b c d"], ["a b c d"])).startswith("BLEU = 100.00 100.0/100.0/100.0/100.0 (BP=1.000, syslen=4")


@pytest.fixture(scope="module")
def corpus(trained):
    config = OmegaConf.load(trained.directory / "config.yaml")
    return prepare(CorpusConfig.from_mapping(config.corpus), trained.data_dir, echo=lambda line: None)


SEARCH = Search(beam=2, length_penalty=1.0, max_length_a=0.0, max_length_b=20, max_tokens=8192)


def test_translations_stand_in_the_corpus_s_order(trained, corpus):
    """Batches are made by length: few sentences a batch must give the same lines as all in one."""
    together = translate(trained.directory / checkpoints.LAST, corpus, SEARCH, cpu=True)
    assert together == translate(
        trained.directory / checkpoints.LAST, corpus, Search(**{**vars(SEARCH), "max_tokens": 120}), cpu=True
    )
    assert len(together) == 20
    assert not any("@@" in line for line in together)


def test_scores_of_the_run_are_those_of_its_file(trained, corpus):
    lines = (trained.directory / "test.hypotheses").read_text(encoding="utf-8").splitlines()
    assert lines == translate(trained.directory / checkpoints.AVERAGED, corpus, SEARCH, cpu=True)
    references = corpus.reference_tokens.read_text(encoding="utf-8").splitlines()
    score = bleu(lines, references, tokenize="none", force=True)
    assert as_metrics({"bleu": score})["bleu"] == trained.record["metrics"]["bleu"]
