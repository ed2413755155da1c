"""Settings that are refused before any work: values out of range, and keys without effect."""

import pytest

from normplugins.runs.check import check
from normplugins.runs.compose import compose_config
from normplugins.utils.errors import UserError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "overrides", "words"),
    [
        ("demo", ["evaluate.beam=0"], "evaluate.beam is 0, but must be at least 1"),
        ("demo", ["optimization.lr=-1"], "optimization.lr is .*-1.*, but must be at least 0"),
        ("demo", ["optimization.lr=[]"], "optimization.lr"),
        ("demo", ["seed=2147483648"], "seed is 2147483648, but must be below"),
        ("demo", ["experiment=../elsewhere"], "names a folder"),
        ("demo", ["run_dir=null"], "needs a folder"),
        ("demo", ["model._name=hubert"], "would change the name alone: choose the whole section with model=hubert"),
        ("demo", ["criterion._name=cross_entropy"], "choose the whole section with criterion=cross_entropy"),
        ("demo", ["model.decoder_norm=foo"], "decoder_norm: unknown norm 'foo'"),
        ("demo", ["dataset.max_tokens=null"], "dataset.batch_size are null"),
        ("demo", ["corpus=ptb"], "corpus=ptb does not fit"),
        ("demo", ["data_dir=at 10:30"], "data_dir=.*at 10:30: fairseq splits paths at ':'"),
        ("demo", ["model.dropout=2"], "model.dropout is 2.0, but must be below 1"),
        ("demo", ["criterion.label_smoothing=2"], "criterion.label_smoothing is 2.0, but must be at most 1"),
        ("demo", ["train.checkpoint_minutes=nan"], "train.checkpoint_minutes is nan, but must be a finite number"),
        ("demo", ["optimization.lr=[inf]"], "optimization.lr is .inf., but must be a finite number"),
        ("demo", ["lr_scheduler.warmup_updates=0"], "warmup_updates=0: lr_scheduler=inverse_sqrt needs at least"),
        ("demo", ["optimization.lr=[1e-3,2e-3]"], "lr_scheduler=inverse_sqrt needs a single number"),
        ("demo", ["hardware=slurm", "hardware.slurm.parallel=0"], "slurm.parallel is 0, but must be at least 1"),
        ("demo", ["lr_scheduler=cosine"], "optimization.max_update=0: lr_scheduler=cosine needs more than"),
        ("ptb", ["lr_scheduler.max_update=-1"], "lr_scheduler.max_update=-1: lr_scheduler=cosine needs more than"),
        ("ptb", ["lr_scheduler.t_mult=0.5"], "lr_scheduler.t_mult is 0.5, but must be at least 1"),
        (
            "demo",
            ["lr_scheduler=step", "lr_scheduler.lr_deacy_period=0"],
            "lr_deacy_period is 0, but must be at least 1",
        ),
        (
            "demo",
            ["lr_scheduler=step", "lr_scheduler.lr_decay=2"],
            "lr_scheduler.lr_decay is 2.0, but must be at most 1",
        ),
        (
            "demo",
            ["lr_scheduler=step", "lr_scheduler.min_lr=9"],
            "lr_scheduler=step needs more than lr_scheduler.min_lr",
        ),
        ("demo", ["model.placement=deepnorm", "model.normalize_before=true"], "contradicts model.placement=deepnorm"),
        ("demo", ["optimizer.adam_betas='(0.9, 1.0)'"], "must be two numbers from 0 to below 1"),
        ("demo", ["optimizer.adam_betas=[0.9,0.98,0.99]"], "must be two numbers from 0 to below 1"),
        ("demo", ["checkpoint.patience=-5"], "checkpoint.patience is -5, but must be at least -1"),
        ("demo", ["evaluate.max_length_b=0"], "a translation needs at least 1 token"),
        ("demo", ["optimization.max_epoch=0", "checkpoint.patience=0"], "nothing ends this run"),
        ("demo", ["optimization.update_freq=[0]"], "optimization.update_freq is .0., but must be at least 1"),
        ("demo", ["hardware.processes=0"], "hardware.processes is 0.* at least 1"),
        ("demo", ["distributed_training.distributed_world_size=2"], "hardware.processes"),
    ],
)
def test_settings_that_cannot_work_are_refused(experiment, overrides, words):
    with pytest.raises(UserError, match=words):
        check(compose_config(experiment, ["hardware=cpu", *overrides]))


def test_one_number_stands_for_a_list_of_one():
    config = compose_config("demo", ["optimization.lr=0.003", "optimization.update_freq=2"])
    assert (list(config.optimization.lr), list(config.optimization.update_freq)) == ([0.003], [2])


def test_betas_may_be_a_text_as_in_fairseq():
    check(compose_config("demo", ["hardware=cpu", "optimizer.adam_betas='(0.9, 0.98)'"]))


@pytest.mark.parametrize("overrides", [["hardware=cpu"], ["hardware=cpu", "dry_run=true"]])
def test_kernels_of_triton_need_a_gpu_or_the_interpreter(monkeypatch, overrides):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(UserError, match=r"^norm\.kernels=triton.* set kernels=auto"):
        check(compose_config("demo", ["norm=pn", "norm.kernels=triton", *overrides]))
    check(compose_config("demo", ["norm=pn", "norm.kernels=triton", "hardware=slurm"]))  # checked again in the job
