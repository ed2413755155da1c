"""What a translation run refuses: sentences too long for the model."""

import pytest

from normplugins.evaluation.translation import check_corpus
from normplugins.runs.compose import compose_config
from normplugins.utils.errors import UserError


class _Corpus:
    def __init__(self, **longest):
        self.manifest = {"longest": longest}


def test_sentences_too_long_for_the_model():
    config = compose_config("demo", ["model.max_target_positions=50", "dataset.max_tokens=100"])
    fits = {"source": 100, "target": 50}
    check_corpus(config, _Corpus(train={"source": 9999, "target": 9999}, valid=fits, test=fits))
    with pytest.raises(UserError, match=r"longest target sentence of the test set has 51 subwords"):
        check_corpus(config, _Corpus(valid=fits, test={"source": 9, "target": 51}))
    with pytest.raises(UserError, match=r"valid set has 101 subwords, more than a batch"):
        check_corpus(config, _Corpus(valid={"source": 101, "target": 5}, test=fits))
