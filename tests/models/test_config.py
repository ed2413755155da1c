from argparse import Namespace
from dataclasses import fields

import pytest
from omegaconf import OmegaConf

from normplugins.models.config import NormTransformerConfig
from normplugins.models.norm_settings import refuse_unread_settings
from normplugins.norms import NormConfig, all_settings, build_norm
from normplugins.norms.layer_norm import LayerNorm
from normplugins.utils.errors import UserError
from tests.helpers.models import make_model, make_settings


def build(side="encoder", final=False, **changes):
    settings = NormTransformerConfig.resolve(make_settings(**changes))
    return settings.build_norm(f"{side}_norm", "final" if final else "ffn")


def test_every_setting_of_a_norm_is_a_setting_of_the_models_with_a_help_text():
    settings = {f.name: f for f in fields(NormTransformerConfig)}
    assert {f"norm_{name}": one.default for name, one in all_settings().items()}.items() <= {
        name: f.default for name, f in settings.items()
    }.items()
    assert all(f.metadata.get("help") for name, f in settings.items() if name != "_name")


def test_settings_reach_the_norm():
    norm = build(encoder_norm="pn", norm_eps=1e-3, norm_warmup_updates=7, norm_double_update=False)
    expected = NormConfig("pn", eps=1e-3, warmup_updates=7, double_update=False, groups=2)
    assert norm.settings == build_norm(expected, 16).settings


@pytest.mark.parametrize("norm", ["pn", "pn_alg2", "pnv", "bn"])
def test_groups_are_the_attention_heads_of_the_stack(norm):
    changes = {"encoder_norm": norm, "decoder_norm": norm, "decoder_attention_heads": 4, "norm_group_scaling": True}
    assert build("encoder", **changes).groups == 2
    assert build("decoder", **changes).groups == 4
    assert build("decoder", norm_groups=8, **changes).groups == 8


def test_the_final_norm_has_its_own_warmup_as_released():
    assert build(encoder_norm="pn").warmup_updates == 8000
    assert build(encoder_norm="pn", final=True).warmup_updates == 1000
    assert build(encoder_norm="pn", final=True, final_norm_warmup_updates=5).warmup_updates == 5
    assert build(encoder_norm="un", final=True, final_norm_warmup_updates=5).warmup_updates == 4000  # only PN's differs


def test_a_norm_without_warmup_gets_none_at_the_end_of_the_stack():
    assert build(encoder_norm="pn_alg2", final=True).warmup_updates == 0


def test_a_switch_that_one_stack_has_leaves_the_other_alone():
    model = make_model(encoder_norm="pn", decoder_norm="ln", norm_group_scaling=False)
    assert model.encoder.final_norm.group_scaling is False
    make_model(encoder_norm="pn_alg2", decoder_norm="ln", norm_group_scaling=True)


def refuse_unread(**changes):
    refuse_unread_settings(NormTransformerConfig.resolve(make_settings(**changes)), prefix="norm.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_momentum": 0.5}, "norm.momentum=0.5 has no effect on ln: ln reads eps"),
        (
            {"encoder_norm": "bn", "norm_alpha_fwd": 0.5},
            "norm.alpha_fwd=0.5 has no effect on bn and ln: bn reads eps, sync, per_update, kernels, "
            "group_scaling, momentum, padding_filled; ln reads eps",
        ),
        ({"encoder_norm": "bn", "norm_double_update": False}, "norm.double_update=false has no effect on bn and"),
        ({"encoder_norm": "rms", "norm_sync": "batch"}, "norm.sync=batch has no effect on rms and ln"),
        (
            {"encoder_norm": "pn", "norm_warmup_updates": 0, "norm_double_update": True},
            "norm.double_update=true has no effect on pn and ln while norm.warmup_updates is 0: set "
            "norm.warmup_updates to use it",
        ),
        (
            {"encoder_norm": "none", "decoder_norm": "none", "norm_eps": 0.1},
            "norm.eps=0.1 has no effect on none: none reads no setting",
        ),
        (
            {"encoder_norm": "pnv", "norm_groups": 4},
            "norm.groups=4 has no effect on pnv and ln while norm.group_scaling is off: "
            "set norm.group_scaling=true to use it",
        ),
        (
            {"encoder_norm": "bn_released", "norm_groups": 4},
            "norm.groups=4 has no effect on bn_released and ln: bn_released reads eps, sync,",
        ),
    ],
)
def test_a_setting_that_no_norm_reads_is_refused(changes, message):
    with pytest.raises(UserError) as refused:
        refuse_unread(**changes)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_eps": 1e-3},
        {"encoder_norm": "rms", "norm_groups": 4},
        {"encoder_norm": "pnv", "norm_groups": 4, "norm_group_scaling": True},
        {"encoder_norm": "none", "norm_eps": 1e-3},
        {"decoder_norm": "pn", "norm_warmup_updates": 5},
        {"decoder_norm": "{attention:ln,ffn:ln,final:bn}", "norm_momentum": 0.5},
        {"encoder_norm": "pnv", "decoder_norm": "rms", "norm_groups": 2},
    ],
)
def test_one_norm_that_reads_a_setting_is_enough(changes):
    refuse_unread(**changes)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_an_unknown_norm_lists_the_known_ones(side):
    with pytest.raises(UserError, match=r"pnn.*bn.*pn_alg2"):
        make_model(**{f"{side}_norm": "pnn"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_embed_dim": 15}, "encoder_embed_dim=15 .* encoder_attention_heads=2"),
        ({"decoder_attention_heads": 0}, "decoder_attention_heads is 0"),
        ({"encoder_norm": "pn", "norm_groups": 3}, "encoder_norm: .*3"),
        ({"activation_fn": "tanhh"}, "unknown activation_fn 'tanhh'; known: relu, gelu, swish"),
        ({"decoder_embed_dim": 32}, "share_all_embeddings needs"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        make_model(**changes)


def test_settings_come_from_omegaconf_as_from_a_namespace_and_default_where_absent():
    given = {"encoder_norm": "pn", "dropout": 0.25}
    from_node, from_args = (
        NormTransformerConfig.resolve(OmegaConf.create(given)),
        NormTransformerConfig.resolve(Namespace(**given)),
    )
    assert from_node == from_args
    assert (from_args.encoder_norm, from_args.dropout, from_args.encoder_layers) == ("pn", 0.25, 6)


def test_the_norm_at_a_decoders_end_may_be_another():
    changes = {"decoder_norm": "{attention:pn,ffn:pn,final:pn_alg2}", "norm_unscaled_nu": True}
    assert build("decoder", **changes).warmup_updates == 8000
    assert build("decoder", final=True, **changes).warmup_updates == 0
    assert isinstance(build("encoder", final=True, **changes), LayerNorm)
