"""A norm for each layer or site of a stack, and norms of queries and keys."""

import pytest
import torch
from torch import nn

from normplugins.models.fold import fold
from normplugins.models.norm_settings import all_norm_names, refuse_unread_settings
from normplugins.norms import NormConfig, build_norm
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config, expand_sweep
from normplugins.utils.errors import UserError
from tests.helpers.language_models import make_language_model
from tests.helpers.models import make_model, train


def kinds(stack: nn.Module) -> list[list[str]]:
    """The classes of the norms at the attention and at the feed-forward part of each layer."""
    return [[type(each.norm).__name__ for each in (layer.self_attention, layer.feed_forward)] for layer in stack.layers]


def name_of(norm: str) -> str:
    return type(build_norm(NormConfig(norm), 8)).__name__


def test_each_layer_has_its_norm_and_the_end_that_of_the_last() -> None:
    model = make_model(encoder_layers=3, encoder_norm="[pn,pnv,rms]")
    assert kinds(model.encoder) == [[name_of(name)] * 2 for name in ("pn", "pnv", "rms")]
    assert type(model.encoder.final_norm).__name__ == name_of("rms")
    assert all_norm_names(model.encoder.cfg) == ["pn", "pnv", "rms", "ln"]


def test_each_site_has_its_norm() -> None:
    for sites, end in (("{attention:bn,ffn:rms,final:scale}", "scale"), ("{attention:bn,ffn:rms}", None)):
        model = make_model(encoder_norm=sites, normalize_before=end is not None)
        assert kinds(model.encoder) == [[name_of("bn"), name_of("rms")]] * len(model.encoder.layers)
        assert type(model.encoder.final_norm).__name__ == (name_of(end) if end else "NoneType")
    assert kinds(make_language_model("transformer", norm="[pn,ln]", layers=2).decoder) == [
        [name_of("pn")] * 2,
        [name_of("ln")] * 2,
    ]


@pytest.mark.parametrize(
    ("norms", "message"),
    [
        ("[pn,ln]", "names 2 norms for 3 layers"),
        ("{attention:pn,ffn:ln}", r"encoder_norm=.* does not name the norm of each site"),
        ("[pn,nope,ln]", "unknown norm 'nope'"),
        ("[pn,ln", "unknown norm"),
    ],
)
def test_norms_that_do_not_fit_the_stack_are_refused(norms: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_model(encoder_layers=3, encoder_norm=norms)


@pytest.mark.slow
def test_on_the_command_line_they_need_no_quotes_and_are_part_of_the_cells_name() -> None:
    given = ["norm=pn", "model.encoder_norm=[pn,pn,ln]", "model.qk_norm=rms"]
    config = compose_config("multi30k", given)
    check(config)
    assert config.variant == "pn,model.encoder_norm=_pn_pn_ln_,model.qk_norm=rms"
    jobs = expand_sweep(["seed=1,2", given[1]])
    assert [compose_config("multi30k", job).model.encoder_norm for job in jobs] == ["[pn,pn,ln]"] * 2


@pytest.mark.parametrize(
    "norms", ["instance", "{attention:ln,ffn:instance,final:ln}", "{attention:ln,ffn:ln,final:instance}"]
)
def test_a_decoder_accepts_no_norm_of_whole_sentences_anywhere(norms: str) -> None:
    with pytest.raises(UserError, match=r"a decoder generates the sentence word by word. .*encoder_norm=.*instance"):
        make_model(decoder_norm=norms)


def test_a_post_norm_stack_has_no_norm_at_its_end() -> None:
    """Checkpoints whose settings name one still load: only new models are refused."""
    model = make_model(encoder_norm="{attention:ln,ffn:rms,final:pn}", normalize_before=False)
    with pytest.raises(UserError, match=r"only a pre-norm stack .* write encoder_norm={attention:ln,ffn:rms}"):
        refuse_unread_settings(model.decoder.cfg)
    model = make_language_model("transformer", norm="{attention:ln,ffn:ln,final:instance}")
    with pytest.raises(UserError, match=r"only a pre-norm stack .* write norm={attention:ln,ffn:ln}"):
        refuse_unread_settings(model.decoder.cfg)


def test_a_stack_of_different_norms_trains_and_is_not_folded() -> None:
    model = train(make_model(encoder_layers=2, encoder_norm="[pn,bn]"), updates=2)
    with pytest.raises(ValueError, match="different norms"):
        fold(model.double().eval())


@pytest.mark.parametrize("norm", ["rms", "ln", "scale"])
def test_queries_and_keys_are_normalized_in_each_head(norm: str) -> None:
    """The attention is that of a plain computation, in training, at evaluation and step by step."""
    model = make_model(qk_norm=norm, attention_dropout=0.0, dropout=0.0, activation_dropout=0.0)
    attention = model.encoder.layers[0].self_attention.sublayer
    x = torch.randn(5, 3, 16)
    heads, width = attention.heads, 16 // attention.heads
    q, k, v = (part.view(5, 3, heads, width) for part in attention.qkv(x).chunk(3, -1))
    q, k = (of(part.reshape(-1, width)).view_as(part) for of, part in ((attention.q_norm, q), (attention.k_norm, k)))
    weights = torch.einsum("tbhc,sbhc->bhts", q, k / width**0.5).softmax(-1)
    expected = attention.out(torch.einsum("bhts,sbhc->tbhc", weights, v).reshape(5, 3, 16))
    for mode in (True, False):
        torch.testing.assert_close(attention.train(mode)(x, None), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["pn", "instance"])
def test_norms_that_need_the_padding_mask_are_refused_in_attention(norm: str) -> None:
    with pytest.raises(UserError, match="no padding mask"):
        make_model(qk_norm=norm)
