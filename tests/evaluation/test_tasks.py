"""Settings and corpora that a model cannot be trained or scored with are refused."""

import re

import pytest

from normplugins.evaluation.tasks import run_task
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config
from normplugins.utils.errors import UserError


class _Corpus:
    def __init__(self, **longest):
        self.manifest = {"longest": longest}


def test_sentences_too_long_for_the_model():
    check_corpus = run_task("translation").check_corpus
    config = compose_config("demo", ["model.max_target_positions=50", "dataset.max_tokens=100"])
    fits = {"source": 100, "target": 50}
    check_corpus(config, _Corpus(train={"source": 9999, "target": 9999}, valid=fits, test=fits))
    with pytest.raises(UserError, match=r"longest target sentence of the test set has 51 subwords"):
        check_corpus(config, _Corpus(valid=fits, test={"source": 9, "target": 51}))
    config.task.max_source_positions = 90
    with pytest.raises(UserError, match=r"longest source sentence of the valid set has 100 subwords"):
        check_corpus(config, _Corpus(valid=fits, test=fits))
    config.task.max_source_positions = 1024
    with pytest.raises(UserError, match=r"valid set has 101 subwords, more than a batch"):
        check_corpus(config, _Corpus(valid={"source": 101, "target": 5}, test=fits))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["evaluate.context=32"], "evaluate.context=32"),
        (["evaluate.segment=33"], "at most 32"),
        (["dataset.max_tokens=31"], "dataset.max_tokens=31"),
        (["dataset.batch_size=null"], "dataset.batch_size"),
        (["optimization.max_update=0", "optimization.max_epoch=3"], "optimization.max_update=0"),
        (["optimization.lr=[0.1,0.2]"], "a single number"),
        (["optimization.lr=[0]"], "min_lr"),
    ],
)
def test_values_that_cannot_work_are_refused(overrides, words):
    with pytest.raises(UserError, match=re.escape(words)):
        check(compose_config("ptb", overrides))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["architecture=transformer", "model.max_positions=31"], "model.max_positions"),
        (["criterion=adaptive_loss"], "model.adaptive_softmax_cutoff"),
        (["architecture=transformer", "+model.causal=false"], "unknown key 'model.causal'"),
        (["budget=cpu", "optimization.max_update=60"], "lr_scheduler.warmup_updates=60"),
        (["corpus=iwslt14"], "corpus=iwslt14 does not fit"),
        (["norm=pn", "norm.groups=3"], "groups"),
    ],
)
def test_choices_that_do_not_fit_together_are_refused(overrides, words):
    with pytest.raises(UserError, match=re.escape(words)):
        check(compose_config("ptb", overrides))
