from functools import cache

import pytest
import torch
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

from normplugins.norms import build_norm
from normplugins.utils.errors import UserError
from tests.helpers.language_models import (
    MODELS,
    SEGMENT,
    log_probs,
    make_language_model,
    make_segments,
    make_task,
    train_lm,
)
from tests.helpers.models import CAUSAL_NORMS, KINDS_OF_NORMS, PAD

EACH_MODEL = pytest.mark.parametrize("kind", MODELS)
EACH_KIND_OF_NORM = pytest.mark.parametrize("norm", KINDS_OF_NORMS)  # a layer does not ask for its norm
CAUSAL_KINDS = tuple(norm for norm in KINDS_OF_NORMS if norm in CAUSAL_NORMS)
PLACEMENTS = pytest.mark.parametrize("pre", [True, False], ids=["pre", "post"])


@cache
def trained(kind, norm, pre=False):
    """A model in evaluation mode that tests share; they must not change it."""
    return train_lm(make_language_model(kind, norm=norm, normalize_before=pre)).eval()


@EACH_MODEL
@EACH_KIND_OF_NORM
@PLACEMENTS
def test_two_norms_a_layer_and_one_more_at_the_end_of_a_pre_norm_stack(kind, norm, pre):
    model = make_language_model(kind, norm=norm, normalize_before=pre)
    ours = type(build_norm(norm, 16))
    assert sum(type(module) is ours for module in model.modules()) == 2 * 2 + pre


@EACH_MODEL
@EACH_KIND_OF_NORM
def test_no_forward_or_backward_reads_a_value_back_from_the_device(kind, norm):
    model = make_language_model(kind, norm=norm, dropout=0.1).train().to("meta")
    model(make_segments().to("meta")[:, :SEGMENT])[0].sum().backward()  # tensors without values: reading one raises


@pytest.mark.slow
@EACH_MODEL
@pytest.mark.parametrize("norm", CAUSAL_KINDS)
def test_a_causal_model_sees_no_later_token_at_evaluation_to_the_bit(kind, norm):
    model = trained(kind, norm)
    tokens = make_segments()[:, :SEGMENT]
    expected = log_probs(model, tokens)
    for time in range(SEGMENT - 1):
        changed = tokens.clone()
        changed[:, time + 1 :] = (changed[:, time + 1 :] - 1) % 18 + 2
        found = log_probs(model, changed)
        assert torch.equal(found[:, : time + 1], expected[:, : time + 1])
        assert not torch.equal(found[:, time + 1 :], expected[:, time + 1 :])


@EACH_MODEL
def test_instance_norm_shows_a_masked_model_its_whole_segment_and_no_other(kind):
    model = trained(kind, "instance")
    tokens = make_segments()[:, :SEGMENT]
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] - 1) % 18 + 2
    before, after = log_probs(model, tokens), log_probs(model, changed)
    assert (before[0, 0] != after[0, 0]).any()
    assert torch.equal(before[1:], after[1:])


def test_a_model_that_sees_its_whole_segment_generates_nothing():
    model = make_language_model("transformer", norm="instance").eval()
    with pytest.raises(UserError, match=r"every position sees? the tokens after it\. It cannot generate text"):
        model(make_segments()[:, :1], incremental_state={})


@pytest.mark.parametrize(("kind", "changes"), [("tensor", {"causal": False}), ("transformer", {"norm": "instance"})])
def test_a_model_that_sees_the_future_says_so_and_is_refused_by_fairseqs_tools(kind, changes, caplog):
    model = make_language_model(kind, **changes)
    assert "the tokens after it: its loss and perplexity are not" in caplog.text
    with pytest.raises(UserError, match=r"every position sees? the tokens after it\. It cannot generate text"):
        model.prepare_for_inference_(OmegaConf.structured(FairseqConfig))


@EACH_MODEL
def test_a_causal_model_says_nothing_and_is_used_by_fairseqs_tools(kind, caplog):
    make_language_model(kind, norm="pn").prepare_for_inference_(OmegaConf.structured(FairseqConfig))
    assert not caplog.text


@pytest.mark.slow
@EACH_MODEL
@EACH_KIND_OF_NORM
@PLACEMENTS
def test_two_updates_change_every_parameter_and_leave_numbers(kind, norm, pre):
    before = make_language_model(kind, norm=norm, normalize_before=pre)
    after = train_lm(make_language_model(kind, norm=norm, normalize_before=pre), updates=2).state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert not [name for name, p in before.named_parameters() if torch.equal(p, after[name])]


def test_weight_normalized_tensor_models_start_as_published():
    plain, model = (make_language_model("tensor", norm=norm) for norm in ("none", "weight"))
    for name, linear in plain.decoder.layers.named_modules():
        if isinstance(linear, torch.nn.Linear):
            torch.testing.assert_close(model.decoder.layers.get_submodule(name).weight, linear.weight)


def test_as_published_the_first_position_sees_the_last_token():
    model = train_lm(make_language_model("tensor", causal=False)).eval()
    tokens = make_segments()[:, :SEGMENT]
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] - 1) % 18 + 2
    assert (log_probs(model, tokens)[:, 0] != log_probs(model, changed)[:, 0]).any(dim=-1).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "pre"), [*((norm, True) for norm in CAUSAL_NORMS), *((norm, False) for norm in CAUSAL_KINDS)]
)
def test_decoding_step_by_step_is_decoding_at_once(norm, pre):
    model = trained("transformer", norm, pre)
    tokens = make_segments()[:, :SEGMENT]
    tokens[0, :2] = PAD  # as fairseq pads prompts
    whole, state = model(tokens)[0], {}
    for length in range(1, SEGMENT + 1):
        step = model(tokens[:, :length], incremental_state=state)[0]
        if length > 2:
            torch.testing.assert_close(step[:, 0], whole[:, length - 1], rtol=1e-4, atol=1e-4)


@EACH_MODEL
@EACH_KIND_OF_NORM
def test_padding_at_the_end_changes_no_prediction(kind, norm):
    model = trained(kind, norm)
    tokens = make_segments()[:, :SEGMENT]
    padded = tokens.clone()
    padded[:, 4:] = PAD
    torch.testing.assert_close(log_probs(model, padded)[:, :4], log_probs(model, tokens[:, :4]))


@EACH_MODEL
@EACH_KIND_OF_NORM
def test_recomputing_layers_changes_nothing(kind, norm):
    results = []
    for recompute in (False, True):
        model = make_language_model(kind, norm=norm, checkpoint_activations=recompute)
        train_lm(model)
        results.append(model.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, msg=name)


@EACH_MODEL
def test_dropout_is_drawn_in_training_alone(kind):
    model = make_language_model(kind, dropout=0.5)
    tokens = make_segments()
    assert not torch.equal(model(tokens[:, :SEGMENT])[0], model(tokens[:, :SEGMENT])[0])
    model.eval()
    assert torch.equal(model(tokens[:, :SEGMENT])[0], model(tokens[:, :SEGMENT])[0])


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("transformer", {"norm": "pnn"}, r"pnn.*bn.*pn_alg2"),
        ("transformer", {"attention_heads": 3}, "embed_dim=16 .*attention_heads=3"),
        ("tensor", {"embed_dim": 7}, "embed_dim=7 must be even$"),
        ("tensor", {"cores": 0}, "cores is 0"),
        ("tensor", {"head_dim": 0}, "head_dim is 0"),
        ("tensor", {"adaptive_softmax_cutoff": "9,5"}, "9,5"),
        ("tensor", {"adaptive_softmax_cutoff": "many"}, "many"),
        ("tensor", {"adaptive_softmax_cutoff": "5,20"}, "more than 20 words"),
        ("tensor", {"adaptive_input": True}, "adaptive_softmax_cutoff"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(kind, changes, message):
    with pytest.raises(UserError, match=message):
        make_language_model(kind, **changes)


@EACH_MODEL
def test_a_segment_that_is_too_long_is_refused(kind):
    model = make_language_model(kind)
    with pytest.raises(UserError, match=f"{model.max_positions() + 1} tokens"):
        model(torch.full((1, model.max_positions() + 1), 5))


def test_reading_and_predicting_other_words_is_refused():
    task = make_task()
    task.target_dictionary = make_task(12).source_dictionary
    with pytest.raises(UserError, match="one dictionary"):
        MODELS["transformer"].build_model(make_language_model("transformer").decoder.cfg, task)
