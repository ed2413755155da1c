"""A model whose norms are folded computes what it computed, without them."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from normplugins.models.fold import fold
from tests.helpers.language_models import log_probs, make_language_model, make_segments
from tests.helpers.models import PAD, assert_same_translations, make_batch, make_model, randomize, translate

FOLDABLE = {
    "bn": {},
    "pnv": {},
    "pn_alg2": {},
    "weight": {},
    **{name: {} for name in ("un", "mabn", "renorm", "rbn")},
    "pn": {"norm_group_scaling": False},
    "bn_released": {"norm_group_scaling": False},
}
CLOSE = {"rtol": 0, "atol": 1e-5}


def fold_copy(make, settings: dict) -> tuple[nn.Module, nn.Module, dict, list]:
    """A model and its folded one, built from the settings it should have and loaded with float32 weights."""
    model, double = randomize(make(**settings)), randomize(make(**settings)).double()
    changed, outcomes = fold(double)
    folded = make(**(settings | changed))
    folded.load_state_dict(double.state_dict())
    return model, folded.eval(), changed, outcomes


def assert_folded(layers: nn.Module) -> None:
    assert not [name for name in layers.state_dict() if "norm." in name or "original" in name]


def translation_log_probs(model: nn.Module, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return model(source, None, target)[0].log_softmax(-1)[target.ne(PAD)]


def assert_same_translation_model(model: nn.Module, folded: nn.Module) -> None:
    """At every real position, padding on either side, all at once and token by token; and the same beam search."""
    batch = make_batch(3)
    source, target = batch["src_tokens"], batch["prev_output_tokens"]
    with torch.no_grad():
        for tokens in (source, source.flip(1)):
            wanted, given = (translation_log_probs(each, tokens, target) for each in (model, folded))
            assert_close(given, wanted, **CLOSE)
        wanted, encoded, state = translation_log_probs(model, source, target), folded.encoder(source), {}
        steps = [folded.decoder(target[:, : t + 1], encoded, incremental_state=state)[0] for t in range(6)]
        assert_close(torch.cat(steps, dim=1).log_softmax(-1)[target.ne(PAD)], wanted, **CLOSE)
    assert_same_translations(translate(folded), translate(model))


@pytest.mark.parametrize("norm", FOLDABLE)
def test_pre_norm_translation(norm):
    settings = {"encoder_norm": norm, "decoder_norm": norm, **FOLDABLE[norm]}
    model, folded, changed, outcomes = fold_copy(make_model, settings)
    assert_same_translation_model(model, folded)
    assert_folded(nn.ModuleList([folded.encoder, folded.decoder.layers]))
    assert (changed["encoder_norm"], changed["decoder_norm"]) == ("none", f"{{attention:none,ffn:none,final:{norm}}}")
    assert [(outcome.key, outcome.end, outcome.count) for outcome in outcomes] == [
        *(("encoder_norm", False, 4), ("encoder_norm", True, 1)),
        *(("decoder_norm", False, 6), ("decoder_norm", True, 1)),
    ]
    assert [outcome.into for outcome in outcomes[:3]] == ["qkv, fc1", "kv of every decoder layer", "qkv, q, fc1"]
    assert outcomes[3].stays == "the output projection shares the embeddings or has no bias"


@pytest.mark.parametrize(
    ("placement", "reason"),
    [
        ("post", "its output is also the residual"),
        ("deepnorm", "its output is also the residual"),
        ("sandwich", "a residual is added to its output"),
        ("peri", "a residual is added to its output"),
    ],
)
def test_norms_in_other_places_stay_with_the_reason(placement, reason):
    settings = {"encoder_norm": "bn", "decoder_norm": "pnv", "placement": placement}
    if placement in ("post", "deepnorm"):
        with pytest.raises(ValueError, match=f"bn: {reason}; pnv: {reason}"):
            fold(make_model(**settings).double())
        return
    model, folded, changed, outcomes = fold_copy(make_model, settings)
    assert_same_translation_model(model, folded)
    assert changed == {"encoder_norm": "{attention:bn,ffn:bn,final:none}"}
    assert [outcome.stays for outcome in outcomes[:3]] == [reason, "", reason]


@pytest.mark.parametrize("share", ["share_all_embeddings", "share_decoder_input_output_embed", ""])
def test_one_stack_of_two_and_any_sharing(share):
    settings = {"encoder_norm": "bn", "decoder_norm": "ln", "share_all_embeddings": False}
    model, folded, changed, outcomes = fold_copy(make_model, settings | ({share: True} if share else {}))
    assert_same_translation_model(model, folded)
    assert changed == {"encoder_norm": "none"}
    assert {outcome.stays for outcome in outcomes if outcome.norm == "ln"} == {"it depends on the values of each token"}


def test_a_decoder_alone_and_weight_normalized_keys_and_values():
    model, folded, changed, _ = fold_copy(make_model, {"encoder_norm": "rms", "decoder_norm": "pnv"})
    assert_same_translation_model(model, folded)
    assert changed == {"decoder_norm": "{attention:none,ffn:none,final:pnv}"}
    model, folded, changed, _ = fold_copy(make_model, {"encoder_norm": "pnv", "decoder_norm": "weight"})
    assert_same_translation_model(model, folded)


OUTPUTS = {
    "tied": {},
    "untied": {"tie_embeddings": False},
    "adaptive": {"adaptive_softmax_cutoff": "8,14", "adaptive_input": True},
    "adaptive_untied": {"adaptive_softmax_cutoff": "8,14", "adaptive_input": True, "tie_embeddings": False},
}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("norm", ["bn", "pn_alg2", "weight"])
def test_language_models(norm, output):
    settings = {"norm": norm, "normalize_before": True, **OUTPUTS[output]}
    model, folded, changed, _ = fold_copy(lambda **each: make_language_model("transformer", **each), settings)
    assert_same_language_model(model, folded)
    assert_folded(folded.decoder.layers)
    state, short = {}, make_segments(4)[2:, :4]
    with torch.no_grad():
        steps = [folded(short[:, : t + 1], incremental_state=state)[0] for t in range(4)]
        assert_close(torch.cat(steps, dim=1), model(short)[0], **CLOSE)
    assert changed["norm"] == ("none" if output == "untied" else f"{{attention:none,ffn:none,final:{norm}}}")


def assert_same_language_model(model: nn.Module, folded: nn.Module) -> None:
    tokens = make_segments(4)[:, :-1]
    tokens[1, -3:] = PAD
    with torch.no_grad():
        wanted, given = (log_probs(each, tokens)[tokens.ne(PAD)] for each in (model, folded))
    assert_close(given, wanted, **CLOSE)


def test_only_the_last_norm_of_a_tensor_transformer_is_folded():
    settings = {"norm": "bn", "normalize_before": True, "tie_embeddings": False}
    model, folded, changed, outcomes = fold_copy(lambda **each: make_language_model("tensor", **each), settings)
    assert_same_language_model(model, folded)
    assert changed == {"norm": "{attention:bn,ffn:bn,final:none}"}
    assert [outcome.stays for outcome in outcomes] == ["qkv, which reads it, has no bias", ""]


def test_other_settings_go_when_nothing_reads_them_any_more():
    settings = {"encoder_norm": "pn_alg2", "norm_unscaled_nu": True, "norm_sync": "deferred", "norm_alpha_fwd": 0.8}
    _, _, changed, _ = fold_copy(make_model, settings)
    assert changed == {"encoder_norm": "none", "norm_unscaled_nu": None, "norm_sync": "none", "norm_alpha_fwd": 0.9}
    settings = {"encoder_norm": "pn_alg2", "decoder_norm": "pnv", "norm_per_update": True}
    _, _, changed, _ = fold_copy(make_model, settings | {"decoder_norm": "{attention:pnv,ffn:pnv,final:ln}"})
    decoder = "{attention:none,ffn:none,final:ln}"
    assert changed == {"encoder_norm": "none", "decoder_norm": decoder, "norm_per_update": False}


def test_a_norm_of_each_token_at_a_decoders_end_stays():
    model, folded, changed, outcomes = fold_copy(make_model, {"decoder_norm": "{attention:bn,ffn:bn,final:rms}"})
    assert_same_translation_model(model, folded)
    assert changed == {"decoder_norm": "{attention:none,ffn:none,final:rms}"}
    assert [(outcome.norm, outcome.into != "") for outcome in outcomes] == [
        *(("ln", False), ("ln", False)),
        *(("bn", True), ("rms", False)),
    ]


@pytest.mark.parametrize("norm", ["bn", "pnv", "pn_alg2"])
def test_a_norm_with_group_scaling_is_refused_with_the_reason(norm):
    model = make_model(encoder_norm=norm, norm_group_scaling=True).double()
    with pytest.raises(ValueError, match=f"{norm}: its group scaling divides each token"):
        fold(model)


@pytest.mark.parametrize("norm", ["ln", "rms", "scale", "group", "pn", "bn_released", "instance", "none", "dyt"])
def test_what_cannot_be_folded_is_refused_with_the_reason(norm):
    reason = {
        **dict.fromkeys(("pn", "bn_released"), "pn: its group scaling divides each token"),
        "instance": "instance: it depends on the values of each sentence",
        "none": "none: there is nothing to fold",
    }.get(norm, f"{norm}: it depends on the values of each token").replace("pn:", f"{norm}:")
    model = make_model(encoder_norm=norm).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=reason):
        fold(model)
    assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
