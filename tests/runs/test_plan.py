"""A plan against the run that it plans, against counts by hand, and as it is printed."""

import re

import pytest

from normplugins.runs.compose import compose_config
from normplugins.runs.measured_step import Step
from normplugins.runs.plan import CorpusSize, Plan, corpus_size, describe, make_plan
from normplugins.utils.errors import UserError
from tests.helpers.runs import TINY, TINY_LM, files


def compose(experiment, *overrides):
    return compose_config(experiment, ["dry_run=true", "tracking=none", *overrides])


def test_a_prepared_translation_is_planned_as_it_will_run(trained):
    before = files(trained.folder)
    plan = make_plan(compose("demo", "norm=pn", *TINY, f"data_dir={trained.data_dir}"))
    record = trained.record
    assert plan.step.parameters == record["training"]["parameters"]
    assert plan.size.types == record["corpus"]["dictionary_types"]
    assert plan.size.sentences == record["corpus"]["counts"]["train"]["pairs"] == 300
    first_epoch = record["curves"]["valid"][0]["update"]
    assert 0.6 * first_epoch < plan.per_epoch <= first_epoch  # the difference is padding
    assert plan.tokens_per_update == 1500
    assert files(trained.folder) == before


def test_a_prepared_text_is_planned_as_it_will_run(transformer_lm, at_home):
    at_home(transformer_lm.folder)
    plan = make_plan(compose("ptb", *TINY_LM, "architecture=transformer", "model.attention_heads=2"))
    assert plan.step.parameters == transformer_lm.record["training"]["parameters"]
    assert plan.per_epoch == transformer_lm.record["curves"]["valid"][0]["update"]


@pytest.mark.parametrize(("processes", "batches"), [(1, 128), (8, 16), (128, 1)])
def test_wmt14_has_524288_tokens_an_update_on_any_number_of_gpus(processes, batches):
    config = compose("wmt14", f"hardware.processes={processes}")
    plan = planned(processes=processes, batches=int(config.optimization.update_freq[0]))
    assert plan.batches == batches
    assert plan.tokens_per_update == 524_288
    assert dict(describe(config, plan))["an update"].startswith("at most 524,288 tokens: 128 batches of 4,096 in")


def planned(**changes):
    memory = {"parameters": 836_550_656, "gradients": 836_550_656, "optimizer": 1_673_101_312, "activations": 9 * 10**9}
    values = {
        "size": CorpusSize(32_008, 4_500_966, 137_628_246, 31, 250, "expected"),
        "step": Step(209_137_664, 992, 2.0, memory, None),
        "device": "CPU",
        "processes": 1,
        "batch_tokens": 4096,
        "batches": 128,
        "per_epoch": 263,
    }
    return Plan(**values | changes)


def test_the_rows_of_a_plan():
    rows = dict(describe(compose("wmt14", "hardware=cpu", "optimization.max_update=300000"), planned()))
    assert rows["parameters"] == "209,137,664"
    assert rows["training text"].startswith("137,628,246 tokens, 4,500,966 sentences")
    assert rows["an epoch"] == "at least 263 updates"
    assert rows["the end"] == "after update 300,000 or 11 epochs without a better validation loss"
    total = "parameters 0.84 GB, gradients 0.84 GB, optimizer 1.67 GB"
    assert rows["memory"] == f"at least 12.35 GB a process: {total}, activations 9.00 GB"
    assert rows["a measured step"].startswith("2.00 s, 496 tokens/s with 992 random tokens in one process")


def test_an_unknown_size_is_reported():
    unknown = planned(size=CorpusSize(808, None, None, 30, 100, "assumed"), per_epoch=None)
    rows = dict(describe(compose("demo", "hardware=cpu"), unknown))
    assert rows["training text"] == "size unknown (assumed)"
    assert "an epoch" not in rows


@pytest.mark.parametrize(
    ("experiment", "types", "sentences", "tokens", "length"),
    [
        ("wmt14", 32_768, 4_500_966, 137_628_246, 31),
        ("multi30k", 5008, 29_000, 870_000, 30),  # 30 tokens a sentence are assumed
        ("ptb", 10_002, 29_050, 929_589, 32),
    ],
)
def test_the_expected_size_of_a_corpus_that_is_not_prepared(experiment, types, sentences, tokens, length, tmp_path):
    size = corpus_size(compose(experiment, f"data_dir={tmp_path}"))
    assert (size.types, size.sentences, size.tokens, size.length) == (types, sentences, tokens, length)
    assert "not prepared here" in size.source


def test_a_plan_on_the_command_line_leaves_nothing_behind(normplugins, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = normplugins("run", "demo", "-m", "norm=ln,pn", "dry_run=true", *TINY)
    assert status == 0
    assert len(re.findall(r"^demo (ln|pn).* seed 1: a plan\. Nothing is downloaded", out, re.MULTILINE)) == 2
    assert len(re.findall(r"^  parameters +[\d,]+ *$", out, re.MULTILINE)) == 2
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="at least 1"):
        make_plan(compose("demo", "evaluate.beam=0"))
    assert "beam" in refused("run", "demo", "dry_run=true", "evaluate.beam=0")


def test_a_plan_names_no_other_cell():
    assert compose("demo", "norm=pn").variant == compose_config("demo", ["norm=pn", "tracking=none"]).variant
