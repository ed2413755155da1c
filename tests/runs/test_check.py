"""Settings that are refused before any work: values out of range, and keys without effect."""

import pytest

from normplugins.runs.check import check
from normplugins.runs.compose import compose_config
from normplugins.utils.errors import UserError


@pytest.mark.parametrize(
    ("experiment", "key", "value", "least"),
    [
        ("demo", "evaluate.beam", 0, 1),
        ("demo", "train.batches_per_update", 0, 1),
        ("demo", "optimization.lr", -1, 0),
        ("ptb", "evaluate.context", -1, 0),
        ("ptb", "pn_warmup_updates", -1, 0),
        ("ptb", "dataset.batch_size", 0, 1),
    ],
)
def test_a_value_below_its_minimum(experiment, key, value, least):
    with pytest.raises(UserError, match=rf"{key} is .*{value}.*, and must be at least {least}"):
        check(compose_config(experiment, [f"{key}={value}"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dataset.validate_interval=2", "no effect"),
        ("checkpoint.finetune_from_model=x.pt", "no effect"),
        ("optimization.lr=[]", "optimization.lr"),
        ("optimization.update_freq=[0]", "at least 1"),
        ("seed=2147483648", "seed is 2147483648, and must be below"),
        ("seed=-1", "seed is -1, and must be at least 0"),
        ("experiment=../elsewhere", "names a folder"),
        ("experiment=a/b", "names a folder"),
        ("run_dir=null", "needs a folder"),
        ("+norm.foo=1", "unknown key 'norm.foo'"),
        ("+model.foo=1", "unknown key 'model.foo'"),
        ("model._name=transformer", "model._name=transformer has no choice of norm. Known: norm_transformer, "),
        ("model.decoder_norm=foo", "decoder_norm: unknown norm 'foo'"),
        ("dataset.max_tokens=null", "dataset.batch_size are null"),
        ("corpus=ptb", "corpus=ptb does not fit"),
        ("data_dir=at 10:30", "data_dir=.*at 10:30: fairseq splits paths at ':'"),
        ("model.dropout=2", "model.dropout is 2.0, and must be below 1"),
        ("model.encoder_layers=0", "model.encoder_layers is 0, and must be at least 1"),
        ("criterion.label_smoothing=2", "criterion.label_smoothing is 2.0, and must be at most 1"),
        ("train.checkpoint_minutes=nan", "train.checkpoint_minutes is nan, and must be a finite number"),
        ("optimization.lr=[inf]", "optimization.lr is .inf., and must be a finite number"),
        ("common.fp16=true", "common.fp16=true needs a GPU"),
    ],
)
def test_invalid_settings_are_refused(override, words):
    with pytest.raises(UserError, match=words):
        check(compose_config("demo", ["hardware=cpu", override]))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["norm=ln", "norm.momentum=0.5"], "norm.momentum=0.5 changes nothing about ln: ln reads eps"),
        (["norm=pnv", "norm.warmup_updates=10"], "norm.warmup_updates=10 changes nothing about pnv"),
        (
            ["norm=pnv", "norm.groups=4"],
            "norm.groups=4 .* while norm.group_scaling is off: set norm",
        ),
    ],
)
def test_a_setting_that_no_norm_reads(overrides, words):
    with pytest.raises(UserError, match=words):
        check(compose_config("demo", overrides))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["norm=bn", "norm.group_scaling=true"],
        ["norm=none", "norm.eps=1e-3"],
    ],
)
def test_a_setting_that_one_norm_reads(overrides):
    check(compose_config("demo", overrides))


def test_one_number_stands_for_a_list_of_one():
    config = compose_config("demo", ["optimization.lr=0.003", "optimization.update_freq=2"])
    assert (list(config.optimization.lr), list(config.optimization.update_freq)) == ([0.003], [2])


def test_betas_may_be_a_text_as_in_fairseq():
    check(compose_config("demo", ["hardware=cpu", "optimizer.adam_betas='(0.9, 0.98)'"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["lr_scheduler.warmup_updates=0"], "lr_scheduler.warmup_updates=0: lr_scheduler=inverse_sqrt needs at least"),
        (["optimization.lr=[1e-3,2e-3]"], "lr_scheduler=inverse_sqrt needs a single number"),
        (["lr_scheduler=reduce_lr_on_plateau"], "its rate would not survive a resume"),
        (["hardware=slurm", "hardware.slurm.parallel=0"], "hardware.slurm.parallel is 0, and must be at least 1"),
        (["lr_scheduler=cosine"], "optimization.max_update=0: lr_scheduler=cosine needs more than"),
        (["common.fp16=true", "dry_run=true"], "common.fp16=true needs a GPU"),
        (["model.placement=deepnorm", "model.normalize_before=true"], "contradicts model.placement=deepnorm"),
        (["optimizer.adam_betas='(0.9, 1.0)'"], "two numbers from 0 to below 1 are needed"),
        (["optimizer.adam_betas=[0.9,0.98,0.99]"], "two numbers from 0 to below 1 are needed"),
        (["criterion.ignore_prefix_size=-3"], "criterion.ignore_prefix_size is -3, and must be at least 0"),
        (["checkpoint.patience=-5"], "checkpoint.patience is -5, and must be at least -1"),
        (["evaluate.max_length_a=-3"], "evaluate.max_length_a is -3.0, and must be at least 0"),
        (["evaluate.max_length_b=0"], "a translation needs at least 1 token"),
    ],
)
def test_settings_that_would_fail_later_or_contradict(overrides, words):
    with pytest.raises(UserError, match=words):
        check(compose_config("demo", ["hardware=cpu", *overrides]))
