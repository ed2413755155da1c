"""The measurement is bitwise zero if the model cannot see the future, and otherwise nonzero."""

import copy
from argparse import Namespace

import pytest
import torch
from torch import nn

from normplugins.evaluation.causality import draw_replacements, measure_evaluation, measure_training, warmups
from normplugins.norms import NormConfig, known_norms, sees_sentence
from normplugins.utils.errors import UserError
from tests.helpers.language_models import SEGMENT, make_language_model, make_segments, train_lm
from tests.helpers.norms import BATCH_NORMS

NORMS = known_norms()
OF_THE_BATCH = tuple(name for name in BATCH_NORMS if not name.startswith("pn_") and name != "pn")
TEXT = torch.randint(2, 20, (500,), generator=torch.Generator().manual_seed(1))
PRE_NORM = {"normalize_before": True, "final_norm_warmup_updates": 0}
CAUSAL = [("tensor", {"causal": True}), ("transformer", PRE_NORM)]
WARMING = [norm for norm in NORMS if "warmup_updates" in NormConfig(norm).settings_read()]


def seeded():
    return torch.Generator().manual_seed(0)


def evaluated(model, draws=2):
    segments = make_segments(batch=5)
    return measure_evaluation(model, segments[:, :-1], segments[:, 1:], TEXT, draws, seeded(), size=3).figures()


def trained(model, trials=8, warming=False):
    segments = make_segments(batch=6)
    return measure_training(model, segments[:, :-1], segments[:, 1:], TEXT, trials, seeded(), warming).figures()


def is_zero(figures):
    """Whether nothing changed in any bit; if so, the sizes must be 0."""
    if figures["identical"]:
        assert figures["max"] == figures["mean"] == 0
    return figures["identical"]


def is_seen(figures):
    return not is_zero(figures) and figures["mean"] > 0


class Reader(nn.Module):
    """Knows the future only ``ahead`` words on: gives the input there 5 nats more than any other word."""

    def __init__(self, ahead):
        super().__init__()
        self.ahead = ahead
        self.decoder = Namespace(dictionary=range(20), output_layer=lambda scores: scores)

    def extract_features(self, inputs):
        ahead = torch.cat([inputs[:, self.ahead :], inputs.new_zeros(len(inputs), self.ahead)], dim=1)
        return 5.0 * nn.functional.one_hot(ahead, 20), {}

    def get_normalized_probs(self, output, log_probs, sample):
        return output[0].log_softmax(-1)


def test_a_model_that_reads_later_inputs_is_found_and_one_that_reads_its_own_is_not():
    figures = evaluated(Reader(1))
    assert figures["mean"] == pytest.approx(5) == figures["max"]
    assert figures["tokens"] == 2 * 5 * (SEGMENT - 1)
    assert not figures["identical"]
    assert not is_zero(evaluated(Reader(3)))
    assert is_zero(evaluated(Reader(0)))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["bn", "pn_alg2", "instance"])
@pytest.mark.parametrize(("kind", "settings"), CAUSAL)
def test_masked_models_see_nothing_in_evaluation_unless_their_norm_does(kind, settings, norm):
    figures = evaluated(train_lm(make_language_model(kind, norm=norm, **settings)))
    assert is_seen(figures) if sees_sentence(norm) else is_zero(figures)


@pytest.mark.parametrize("norm", ["ln", "pn"])
def test_the_published_model_sees_every_token_in_evaluation(norm):
    assert is_seen(evaluated(train_lm(make_language_model("tensor", norm=norm, causal=False))))


def test_an_adaptive_softmax_is_measured_too():
    settings = {"adaptive_softmax_cutoff": "6,12", "adaptive_input": True, "norm": "ln"}
    model = make_language_model("tensor", causal=True, **settings)
    assert is_zero(evaluated(model))
    assert is_zero(trained(model))
    assert is_seen(evaluated(make_language_model("tensor", causal=False, **settings)))


@pytest.mark.parametrize("norm", sorted({*NORMS} - {*OF_THE_BATCH, "instance"}))
@pytest.mark.parametrize(("kind", "settings"), CAUSAL)
def test_norms_that_leak_nothing_in_training(kind, settings, norm):
    settings = settings | {"norm_warmup_updates": 0}  # pn's has its own test
    assert is_zero(trained(train_lm(make_language_model(kind, norm=norm, **settings))))


@pytest.mark.parametrize("norm", [*OF_THE_BATCH, "instance"])
@pytest.mark.parametrize(("kind", "settings"), CAUSAL)
def test_statistics_of_a_batch_or_a_segment_leak_in_training(kind, settings, norm):
    assert is_seen(trained(train_lm(make_language_model(kind, norm=norm, **settings))))


@pytest.mark.parametrize(("kind", "settings"), CAUSAL)
def test_pn_leaks_during_its_warmup_alone(kind, settings):
    model = train_lm(make_language_model(kind, norm="pn", norm_warmup_updates=2, **settings))
    assert {(updates >= of, of) for updates, of in warmups(model)} == {(True, 2)}
    assert is_zero(trained(model))
    assert is_seen(trained(model, warming=True))
    fresh = train_lm(make_language_model(kind, norm="pn", norm_warmup_updates=9, **settings))
    assert {(updates >= of, of) for updates, of in warmups(fresh)} == {(False, 9)}
    assert is_seen(trained(fresh))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "warming"),
    [*((norm, False) for norm in (*BATCH_NORMS, "ln", "instance")), *((norm, True) for norm in WARMING)],
)
def test_the_model_is_left_as_it_was(norm, warming):
    model = train_lm(make_language_model("transformer", norm=norm, dropout=0.4)).eval()
    before = copy.deepcopy(model.state_dict())
    assert trained(model, warming=warming) == trained(model, warming=warming), "dropout, or statistics that moved"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())


def test_more_trials_than_cuts_and_segments_take_them_in_turn():
    figures = trained(make_language_model("transformer", norm="bn"), trials=2 * (SEGMENT - 1))
    assert figures["tokens"] == 2 * (SEGMENT - 1)


def test_replacements_are_the_texts_words_by_their_frequency_and_never_the_word_itself():
    text = torch.tensor([3, 3, 3, 7, 9])
    tokens = torch.full((4000,), 9)
    drawn = draw_replacements(tokens, text, seeded())
    assert set(drawn.tolist()) == {3, 7}
    assert (drawn == 3).float().mean() == pytest.approx(0.75, abs=0.03)


def test_log_probabilities_that_are_no_numbers_are_refused():
    model = make_language_model("transformer", norm="ln")
    nn.init.constant_(model.decoder.vocabulary.embeddings, torch.nan)
    with pytest.raises(UserError, match="not finite"):
        evaluated(model)
