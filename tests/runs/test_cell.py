"""The name of a cell comes from what the composed config says, and not from how it was typed."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normplugins.runs.compose import compose_config


def name(experiment, *overrides):
    return compose_config(experiment, overrides).variant


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
        (["run_dir=/x", "data_dir=/d", "results_dir=/r", "force=true", "dry_run=true"], "pn"),
        (["model.encoder_norm=bn"], "pn,model.encoder_norm=bn"),
        (["corpus.train_size=3"], "pn,corpus.train_size=3"),
        (["train.compile=true"], "pn,train.compile=true"),  # it draws other dropout masks
        (["optimizer=adam"], "pn,optimizer=adam"),
    ],
)
def test_each_way_of_typing_a_setting_gives_one_name(ways, expected):
    assert {name("demo", "norm=pn", way) for way in ways} == {expected}


def test_each_norm_of_a_model_has_its_own_defaults():
    assert name("demo", "norm=bn", "norm.momentum=0.1") == "bn"
    assert name("demo", "norm=bn", "model.decoder_norm=bn_released", "norm.momentum=0.1") == (
        "bn,model.decoder_norm=bn_released,norm.momentum=0.1"
    )


def test_what_a_norm_does_anyway_is_not_named():
    assert name("demo", "norm=pnv", "norm.group_scaling=false") == "pnv"
    assert name("demo", "norm=rms", "norm.groups=1") == "rms"
    assert name("demo", "norm=pnv", "norm.group_scaling=true", "norm.groups=4") == "pnv,norm.group_scaling=true"
    assert name("demo", "norm=rms", "norm.groups=4") == "rms,norm.groups=4"


def test_what_one_norm_of_the_model_does_anyway_is_named_where_another_does_not():
    shared = ["norm=pnv", "model.decoder_norm=pn"]
    assert name("multi30k", *shared) != name("multi30k", *shared, "norm.group_scaling=false")
    shared = ["norm=pn", "model.decoder_norm=rms"]
    assert name("multi30k", *shared) != name("multi30k", *shared, "norm.groups=4")
    heads = ["norm=pn", "model.decoder_norm=pn", "model.decoder_attention_heads=2"]
    assert name("multi30k", *heads) != name("multi30k", *heads, "norm.groups=4")


def test_a_value_that_another_setting_brings_is_not_named():
    assert name("demo", "norm=pn", "model.encoder_attention_heads=2", "norm.groups=2") == (
        "pn,model.encoder_attention_heads=2"
    )
    assert name("demo", "norm=pn", "model.encoder_attention_heads=2", "norm.groups=4") == (
        "pn,model.encoder_attention_heads=2,norm.groups=4"
    )


def test_a_choice_of_a_group_stands_for_what_it_sets():
    assert name("ptb", "norm=pn", "budget=cpu", "optimization.max_update=400") == "pn,budget=cpu"
    assert name("ptb", "norm=pn", "architecture=transformer") == "pn,architecture=transformer"
    assert name("ptb", "norm=pn", "model.causal=true") == "pn,model.causal=true"
    assert name("iwslt14", "corpus=multi30k") == "ln,corpus=multi30k"


def test_a_reading_is_named_by_what_it_sets():
    assert name("ptb", "norm=pn", "reading=masked") == name("ptb", "norm=pn", "model.causal=true")
    by_hand = ["model.causal=true", "model.normalize_before=true"]
    assert name("ptb", "norm=pn", "reading=paper") == name("ptb", "norm=pn", *by_hand)
    assert name("ptb", "norm=pn", "reading=code") == "pn"


def test_files_of_a_custom_corpus_are_named_by_the_experiment():
    files = ["corpus.train=/a b/c", "corpus.test_target=x", "corpus.source=en", "corpus.target=de"]
    assert name("custom", "norm=pn", "experiment=mine", *files) == "pn"
    assert name("demo", "norm=pn", "corpus.source=cc") == "pn,corpus.source=cc"


def test_several_processes_make_a_cell_where_each_adds_a_batch():
    processes = ["hardware=cpu", "hardware.processes=2"]
    assert name("demo", "norm=pn", *processes) == "pn,processes=2"
    assert name("wmt14", "norm=pn", *processes) == "pn"


def test_the_order_of_overrides_makes_no_other_cell():
    overrides = ["norm=pn", "model.dropout=0.2", "evaluate.beam=4"]
    assert len({name("demo", *order) for order in itertools.permutations(overrides)}) == 1


@pytest.mark.slow
@settings(deadline=None, max_examples=2)
@given(st.lists(st.floats(1e-9, 1e-3), min_size=12, max_size=20, unique=True))
def test_a_cell_s_name_fits_every_file_system_and_stays_apart(rates):
    first, second = (name("demo", "norm=pn", f"optimization.lr={given}") for given in (rates, rates[::-1]))
    assert len(first.encode()) <= 120
    assert re.fullmatch(r"pn,[^/\0\s]*", first)
    assert first != second
