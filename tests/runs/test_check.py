"""What is refused before any work: values out of range, keys without effect, sentences too long for the model."""

import pytest
from omegaconf import OmegaConf

from normplugins.runs.check import LEAST, UNUSED, check
from normplugins.runs.compose import compose_config
from normplugins.utils.errors import UserError


def test_every_experiment_passes_as_it_is():
    for experiment in ("demo", "iwslt14", "multi30k", "ptb", "wikitext2", "wikitext103"):
        check(compose_config(experiment))


@pytest.mark.parametrize("key", LEAST)
def test_below_the_least(key):
    experiment = "demo" if OmegaConf.select(compose_config("demo"), key, default="none") != "none" else "ptb"
    with pytest.raises(UserError, match=key):
        check(compose_config(experiment, [f"{key}={LEAST[key] - 1}"]))


@pytest.mark.parametrize("key", UNUSED)
def test_keys_without_effect_are_known_keys_of_fairseq(key):
    from normplugins.runs.compose import fairseq_defaults

    section, _, name = key.rpartition(".")
    assert name in OmegaConf.select(fairseq_defaults(), section)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dataset.validate_interval=2", "no effect"),
        ("checkpoint.finetune_from_model=x.pt", "no effect"),
        ("optimization.lr=[]", "optimization.lr"),
        ("optimization.update_freq=[0]", "at least 1"),
        ("seed=4294967296", "2\\*\\*32"),
        ("experiment=../elsewhere", "names a folder"),
        ("experiment=a/b", "names a folder"),
        ("run_dir=null", "needs a folder"),
        ("+norm.foo=1", "unknown key 'norm.foo'"),
        ("+model.foo=1", "unknown key 'model.foo'"),
        ("model.decoder_norm=foo", "decoder_norm: unknown norm 'foo'"),
        ("dataset.max_tokens=null", "dataset.batch_size are null"),
        ("corpus=ptb", "corpus=ptb does not fit"),
    ],
)
def test_refused(override, words):
    with pytest.raises(UserError, match=words):
        check(compose_config("demo", [override]))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["norm=ln", "norm.momentum=0.5"], "norm.momentum=0.5 changes nothing about ln: ln reads eps"),
        (["norm=bn", "norm.alpha_fwd=0.5"], "norm.alpha_fwd=0.5 changes nothing about bn"),
        (["norm=pnv", "norm.warmup_updates=10"], "norm.warmup_updates=10 changes nothing about pnv"),
        (
            ["norm=pnv", "norm.groups=4"],
            "norm.groups=4 .* while norm.group_scaling is off: set norm",
        ),
    ],
)
@pytest.mark.parametrize("experiment", ["demo", "ptb"])
def test_a_setting_that_no_norm_reads(experiment, overrides, words):
    with pytest.raises(UserError, match=words):
        check(compose_config(experiment, overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        *([f"norm={norm}", "norm.group_scaling=true"] for norm in ("bn", "pnv", "pn_alg2")),
        ["norm=pn", "norm.group_scaling=false"],
        ["norm=rms", "norm.groups=4"],
        ["norm=ln", "model.decoder_norm=pn"],
        ["norm=none", "norm.eps=1e-3"],
    ],
)
def test_a_setting_that_one_norm_reads(overrides):
    check(compose_config("demo", overrides))


def test_one_number_stands_for_a_list_of_one():
    config = compose_config("demo", ["optimization.lr=0.003", "optimization.update_freq=2"])
    assert (list(config.optimization.lr), list(config.optimization.update_freq)) == ([0.003], [2])
