"""The name of a cell follows from the composed config, however the overrides are written; the short names of runs.

tests/runs/test_campaign.py tests that all cells of a campaign have different short names.
"""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from normplugins.runs.cell import changes_result, display_name, flatten
from normplugins.runs.compose import compose_config
from tests.helpers.runs import REPOSITORY


def name(experiment, *overrides):
    return compose_config(experiment, overrides).variant


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ways", "expected"),
    [
        (["norm.group_scaling=false", "norm.group_scaling=False"], "pn,norm.group_scaling=false"),
        (
            ["optimization.lr=0.003", "optimization.lr=3e-3", "optimization.lr=[0.003]", "++optimization.lr=[3.0e-3]"],
            "pn,optimization.lr=0.003",
        ),
        (["optimization.lr=0.005", "optimization.max_epoch=8", "norm.groups=4", "norm=pn"], "pn"),
        (["norm.kernels=plain", "common.log_interval=7", "dataset.num_workers=2", "hardware.threads=1"], "pn"),
        (["tracking=none", "hardware=cpu", "train.checkpoint_minutes=0", "evaluate.max_tokens=99", "seed=7"], "pn"),
        (["run_dir=/x", "data_dir=/d", "force=true", "dry_run=true"], "pn"),
        (["model.encoder_norm=bn"], "pn,model.encoder_norm=bn"),
        (["corpus.train_size=3"], "pn,corpus.train_size=3"),
        (["train.compile=true"], "pn,train.compile=true"),  # it draws other dropout masks
        (["optimizer=adam"], "pn,optimizer=adam"),
    ],
)
def test_equivalent_overrides_give_one_name(ways, expected):
    assert {name("demo", "norm=pn", way) for way in ways} == {expected}


def test_no_hardware_sets_what_changes_a_result():
    for path in (REPOSITORY / "configs" / "hardware").glob("*.yaml"):
        settings = dict(flatten(OmegaConf.load(path), resolve=False))
        assert [key for key in settings if key != "defaults" and changes_result(key)] == []


def test_each_norm_of_a_model_has_its_own_defaults():
    assert name("demo", "norm=bn", "norm.momentum=0.1") == "bn"
    assert name("demo", "norm=bn", "model.decoder_norm=bn_released", "norm.momentum=0.1") == (
        "bn,model.decoder_norm=bn_released,norm.momentum=0.1"
    )


def test_the_default_of_a_norm_is_not_named():
    assert name("demo", "norm=pnv", "norm.group_scaling=false") == "pnv"
    assert name("demo", "norm=rms", "norm.groups=1") == "rms"
    assert name("demo", "norm=pnv", "norm.group_scaling=true", "norm.groups=4") == "pnv,norm.group_scaling=true"
    assert name("demo", "norm=rms", "norm.groups=4") == "rms,norm.groups=4"


@pytest.mark.slow
def test_the_default_of_one_norm_is_named_if_another_norm_has_a_different_default():
    shared = ["norm=pnv", "model.decoder_norm=pn"]
    assert name("multi30k", *shared) != name("multi30k", *shared, "norm.group_scaling=false")
    shared = ["norm=pn", "model.decoder_norm=rms"]
    assert name("multi30k", *shared) != name("multi30k", *shared, "norm.groups=4")
    heads = ["norm=pn", "model.decoder_norm=pn", "model.decoder_attention_heads=2"]
    assert name("multi30k", *heads) != name("multi30k", *heads, "norm.groups=4")


def test_a_value_that_follows_from_another_setting_is_not_named():
    assert name("demo", "norm=pn", "model.encoder_attention_heads=2", "norm.groups=2") == (
        "pn,model.encoder_attention_heads=2"
    )
    assert name("demo", "norm=pn", "model.encoder_attention_heads=2", "norm.groups=4") == (
        "pn,model.encoder_attention_heads=2,norm.groups=4"
    )


@pytest.mark.slow
def test_an_option_of_a_group_stands_for_the_values_that_it_sets():
    assert name("ptb", "norm=pn", "budget=cpu", "optimization.max_update=400") == "pn,budget=cpu"
    assert name("ptb", "norm=pn", "architecture=transformer") == "pn,architecture=transformer"
    assert name("ptb", "norm=pn", "model.causal=true") == "pn,model.causal=true"
    assert name("iwslt14", "corpus=multi30k") == "ln,corpus=multi30k"


@pytest.mark.slow
def test_a_reading_is_named_by_the_values_that_it_sets():
    assert name("ptb", "norm=pn", "reading=masked") == name("ptb", "norm=pn", "model.causal=true")
    by_hand = ["model.causal=true", "model.normalize_before=true"]
    assert name("ptb", "norm=pn", "reading=paper") == name("ptb", "norm=pn", *by_hand)
    assert name("ptb", "norm=pn", "reading=code") == "pn"


def test_files_of_a_custom_corpus_are_named_by_the_experiment():
    files = ["corpus.train=/a b/c", "corpus.test_target=x", "corpus.source=en", "corpus.target=de"]
    assert name("custom", "norm=pn", "experiment=mine", *files) == "pn"
    assert name("demo", "norm=pn", "corpus.source=cc") == "pn,corpus.source=cc"


@pytest.mark.slow
def test_the_number_of_processes_is_named_if_each_adds_a_batch_or_has_statistics_of_its_own():
    processes = ["hardware=cpu", "hardware.processes=2"]
    assert name("demo", "norm=ln", *processes) == "ln,processes=2"
    assert name("wmt14", "norm=ln", *processes) == "ln"
    assert name("wmt14", "norm=pn", *processes) == "pn,processes=2"
    assert name("wmt14", "norm=pnv", "norm.sync=deferred", *processes) == "pnv,norm.sync=deferred"


def test_the_order_of_overrides_does_not_change_the_cell():
    overrides = ["norm=pn", "model.dropout=0.2", "evaluate.beam=4"]
    assert len({name("demo", *order) for order in itertools.permutations(overrides)}) == 1


@pytest.mark.slow
@settings(deadline=None, max_examples=2)
@given(st.lists(st.floats(1e-9, 1e-3), min_size=12, max_size=20, unique=True))
def test_long_names_of_cells_are_cut_and_stay_different(rates):
    first, second = (name("demo", "norm=pn", f"optimization.lr={given}") for given in (rates, rates[::-1]))
    assert len(first.encode()) <= 120
    assert re.fullmatch(r"pn,[^/\0\s]*", first)
    assert first != second


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("ln", "ln-s1"),
        ("pn,norm.group_scaling=false", "pn-nogs-s1"),
        ("pnv,norm.group_scaling=true,optimization.lr=0.005", "pnv-gs-lr0.005-s1"),
        ("rms,norm.groups=4", "rms-groups4-s1"),
        ("bn,budget=cpu,model.causal=true", "bn-cpu-causal-s1"),
        ("ln,dataset.max_tokens=512,lr_scheduler.warmup_updates=4000", "ln-mt512-wu4000-s1"),
        ("pn,recipe=un", "pn-un-recipe-s1"),
        ("pn,processes=8", "pn-processes8-s1"),
    ],
)
def test_a_name_says_what_differs(variant, name):
    assert display_name(variant, 1) == name


def test_a_name_of_many_settings_is_cut_and_stays_its_own():
    one, other = (display_name(f"ln,{','.join(f'model.a{key}=1' for key in range(20))},x.y={n}", 1) for n in (1, 2))
    assert one != other
    assert max(len(one), len(other)) <= 43
    assert one.startswith("ln-a01-a11-")
