"""A plan compared with the run itself and with counts by hand, the memory of a measured step, and the printed table."""

import re
from functools import partial

import pytest
import torch
from torch import nn

from normplugins.evaluation.tasks import run_task
from normplugins.runs.compose import compose_config, fairseq_config
from normplugins.runs.dry_run import (
    CorpusSize,
    Step,
    corpus_size,
    describe,
    dry_run_rows,
    measure,
    saved_bytes,
    synthetic_task,
)
from normplugins.utils.errors import UserError
from tests.helpers.runs import TINY, TINY_LM, files


def compose(experiment, *overrides):
    return compose_config(experiment, ["dry_run=true", "tracking=none", *overrides])


def first_epoch(record):
    return record["curves"]["valid"][0]["update"]


def updates_of_an_epoch(rows):
    (updates,) = re.fullmatch(r"at least ([\d,]+) updates, [\d:]+ at the measured speed", rows["an epoch"]).groups()
    return int(updates.replace(",", ""))


def test_a_plan_of_a_prepared_translation_agrees_with_its_run(trained):
    before = files(trained.folder)
    rows = dry_run_rows(compose("demo", "norm=pn", *TINY, f"data_dir={trained.data_dir}"))
    record = trained.record
    assert rows["parameters"] == f"{record['training']['parameters']:,}"
    assert rows["dictionary"] == f"{record['corpus']['dictionary_types']} types"
    assert ", 300 sentences or segments (counted" in rows["training text"]
    assert record["corpus"]["counts"]["train"]["pairs"] == 300
    assert 0.6 * first_epoch(record) < updates_of_an_epoch(rows) <= first_epoch(record)  # the difference is padding
    assert rows["an update"].startswith("at most 1,500 tokens (batches of 1,500: 1; processes: 1)")
    assert files(trained.folder) == before


def test_a_plan_of_a_prepared_text_agrees_with_its_run(transformer_lm, at_home):
    at_home(transformer_lm.folder)
    rows = dry_run_rows(compose("ptb", *TINY_LM, "architecture=transformer", "model.attention_heads=2"))
    assert rows["parameters"] == f"{transformer_lm.record['training']['parameters']:,}"
    assert updates_of_an_epoch(rows) == first_epoch(transformer_lm.record)


SIZE = CorpusSize(32_008, 4_500_966, 137_628_246, 31, "expected")
MEMORY = {"parameters": 836_550_656, "gradients": 836_550_656, "optimizer": 1_673_101_312, "activations": 9 * 10**9}
STEP = Step(209_137_664, 992, 2.0, MEMORY, None)


@pytest.mark.parametrize(("processes", "batches"), [(1, 128), (8, 16), (128, 1)])
def test_wmt14_has_524288_tokens_an_update_on_any_number_of_gpus(processes, batches):
    config = compose("wmt14", f"hardware.processes={processes}")
    assert list(config.optimization.update_freq) == [batches]
    update = describe(config, SIZE, STEP)["an update"]
    assert update == f"at most 524,288 tokens (batches of 4,096: 128; processes: {processes})"


@pytest.mark.parametrize(
    ("experiment", "overrides", "update"),
    [
        ("demo", ["dataset.max_tokens=null", "dataset.batch_size=64"], "about 1,984 tokens"),  # of 31 tokens each
        ("demo", ["dataset.max_tokens=4000", "dataset.batch_size=64"], "about 1,984 tokens"),
        ("demo", ["dataset.max_tokens=1000", "dataset.batch_size=64"], "at most 1,000 tokens"),
        ("ptb", ["dataset.max_tokens=null", "dataset.batch_size=64"], "at most 1,984 tokens"),
    ],
)
def test_a_number_of_sentences_is_no_limit_on_their_tokens(experiment, overrides, update):
    assert describe(compose(experiment, "hardware=cpu", *overrides), SIZE, STEP)["an update"].startswith(update)


def test_the_rows_of_a_plan():
    rows = describe(compose("wmt14", "hardware=cpu", "optimization.max_update=300000"), SIZE, STEP)
    assert rows["parameters"] == "209,137,664"
    assert rows["training text"].startswith("137,628,246 tokens, 4,500,966 sentences")
    assert rows["an epoch"] == "at least 263 updates, 3 days, 5:04:36 at the measured speed"
    assert rows["the end"] == "after update 300,000 or 11 epochs without a better validation loss"
    total = "parameters 0.84 GB, gradients 0.84 GB, optimizer 1.67 GB"
    assert rows["memory"] == f"at least 12.35 GB per process: {total}, activations 9.00 GB"
    assert rows["a measured step"].startswith("2.00 s, 496 tokens/s with 992 random tokens in one process")


def test_an_unknown_size_is_reported():
    unknown = CorpusSize(808, None, None, 30, "assumed")
    rows = describe(compose("demo", "hardware=cpu"), unknown, STEP)
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


@pytest.mark.slow
def test_a_plan_on_the_command_line_leaves_nothing_behind(accepted, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = accepted("run", "demo", "-m", "norm=ln,pn", "dry_run=true", *TINY)
    assert len(re.findall(r"^demo (ln|pn)\S*-s1: dry run\. Nothing is downloaded", out, re.MULTILINE)) == 2
    assert len(re.findall(r"^  parameters +[\d,]+ *$", out, re.MULTILINE)) == 2
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="at least 1"):
        dry_run_rows(compose("demo", "evaluate.beam=0"))
    assert "beam" in refused("run", "demo", "dry_run=true", "evaluate.beam=0")


def test_bytes_saved_by_autograd_equal_a_count_by_hand():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(7, 3)
    # the first linear layer saves x; the ReLU and the second linear layer save the same tensor, which counts once
    assert saved_bytes(model, lambda: model(x).sum()) == 4 * (7 * 3 + 7 * 5)
    # a square saves the outputs too, and a view counts with its whole storage
    assert saved_bytes(model, lambda: model(x).square().sum()) == 4 * (7 * 3 + 7 * 5 + 7 * 2)
    assert saved_bytes(model, lambda: model(torch.randn(9, 3)[2:])) == 4 * (9 * 3 + 7 * 5)
    with torch.no_grad():
        assert saved_bytes(model, lambda: model(x)) == 0


@pytest.mark.parametrize("norm", ["ln", "pn"])
def test_memory_of_a_full_batch(norm):
    """In float32 a number has 4 bytes, and Adam stores two numbers per parameter."""
    settings = fairseq_config(compose_config("demo", [f"norm={norm}", *TINY]))
    task, batch = synthetic_task(run_task("translation"), settings, types=64)
    steps = {full: measure(settings, task, batch, full, 10) for full in (200, 2000)}
    for full, step in steps.items():
        model, criterion = task.build_model(settings.model), task.build_criterion(settings.criterion)
        model.train()
        expected = saved_bytes(model, partial(criterion, model, batch(full // 10, 10)))
        assert step.memory["activations"] == pytest.approx(expected, rel=0.005)
        assert step.memory["gradients"] == 4 * step.parameters
        assert step.memory["optimizer"] == 8 * step.parameters
        assert step.peak is None
    settings.precision = "bf16"
    half = measure(settings, task, batch, 2000, 10).memory["activations"]
    assert half < 0.7 * steps[2000].memory["activations"]
    assert (steps[200].tokens, steps[2000].tokens) == (200, 250)  # on a CPU, a part of the batch is measured
