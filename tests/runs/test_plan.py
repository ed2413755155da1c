"""A plan against the run that it plans, against hand counts, and as it is printed."""

import math
import re

import pytest
from omegaconf import OmegaConf

from normplugins.runs.compose import compose_config
from normplugins.runs.corpus_size import Size, corpus_size
from normplugins.runs.measured_step import Memory, Step
from normplugins.runs.plan import Plan, describe, ends, human, make_plan, notes, size_of
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
    assert 0.6 * first_epoch < plan.per_epoch <= first_epoch  # what padding takes
    assert (plan.tokens_per_update, plan.latest) == (1500, 24)
    assert files(trained.folder) == before


def test_a_prepared_text_is_planned_as_it_will_run(transformer_lm, at_home):
    at_home(transformer_lm.folder)
    plan = make_plan(compose("ptb", *TINY_LM, "architecture=transformer", "model.attention_heads=2"))
    assert plan.step.parameters == transformer_lm.record["training"]["parameters"]
    assert plan.per_epoch == transformer_lm.record["curves"]["valid"][0]["update"]
    assert plan.size.in_segments
    assert len(plan.step.memory.activations) == 1


def test_memory_against_a_count_by_hand(trained):
    """Of a model with LayerNorm in float32: 4 bytes a number, and Adam keeps two for each parameter."""
    overrides = [*TINY, f"data_dir={trained.data_dir}"]
    plan, twice = (make_plan(compose("demo", *overrides, f"dataset.max_tokens={n}")) for n in (1500, 3000))
    memory, length = plan.step.memory, plan.size.length
    parameters = plan.step.parameters
    assert memory.gradients == 4 * parameters
    assert memory.optimizer == 8 * parameters
    assert 4 * parameters <= memory.parameters < 4 * parameters + 4 * 2 * 1100 * 16  # and sines of positions
    # For each token: no vector over the dictionary; 25 to 130 vectors of the model's 16 channels, in two layers of 5
    # sublayers with their norms (on a CPU, which keeps no masks, some 9 + 16 + 3 for the ends); one to four numbers for
    # each pair in 3 attentions with 2 heads. And the gradient of the output projection, which comes with the loss.
    tokens, types, pairs = 1500 // length * length, plan.size.types, 3 * 2 * length
    kept = (memory.activations[length] / 4 - types * 16) / tokens
    assert 25 * 16 + pairs < kept < 130 * 16 + 4 * pairs
    assert twice.step.memory.activations[length] == pytest.approx(2 * memory.activations[length], rel=0.05)
    assert memory.total == memory.parameters + 12 * parameters + max(memory.activations.values())


@pytest.mark.parametrize(("processes", "batches"), [(1, 128), (8, 16), (128, 1)])
def test_wmt14_has_524288_tokens_an_update_on_any_number_of_gpus(processes, batches):
    config = compose("wmt14", f"hardware.processes={processes}")
    plan = planned(processes=processes, batches=int(config.optimization.update_freq[0]))
    assert plan.batches == batches
    assert plan.tokens_per_update == 524_288
    (line,) = (text for name, text in describe(config, plan) if name == "an update")
    assert line.startswith("524,288 tokens at most: 128 batches of 4,096")


def planned(**changes):
    memory = Memory(836_550_656, 836_550_656, 1_673_101_312, {31: 5_900_000_000, 250: 9_000_000_000}, None)
    values = {
        "size": Size(32_008, 4_500_966, 137_628_246, 31, 250, "expected", "expected"),
        "step": Step(209_137_664, 279, 2.0, 4092, 28.0, 2.0, memory),
        "device": "CPU, 2 threads",
        "processes": 1,
        "batch_tokens": 4096,
        "batches": 128,
        "per_epoch": 263,
        "earliest": 3156,
        "latest": None,
    }
    return Plan(**values | changes)


def test_the_lines_of_a_plan():
    lines = dict(describe(compose("wmt14", "hardware=cpu"), planned()))
    assert lines["parameters"] == "209,137,664"
    assert lines["training text"].startswith("137,628,246 tokens, 4,500,966 sentences of 31 tokens on average")
    assert lines["warmup"] == "8,000 updates of rising learning rate, into epoch 31"
    assert lines["the end"] == "after 11 epochs without a better validation loss, update 3,156 at the earliest"
    # 128 x 28 s and 2 s: 3586 s; 128 x 4092 tokens in that time
    assert lines["time of an update"] == "60 min, 146 tokens/s in a process"
    assert lines["of an epoch"] == "11 days"  # 263 x 3586 s = 10.9
    assert lines["to the end"] == "131 days at the earliest"  # 12 x 263 x 3586 s = 131.0
    total = "12.35 GB: parameters 0.84 GB, gradients 0.84 GB, optimizer 1.67 GB, activations 9.00 GB"
    assert lines["memory of a process"] == total
    assert lines["activations"] == "9.00 GB with 250 tokens a sentence, 5.90 GB with 31 tokens a sentence"


def test_what_a_plan_cannot_know_is_said():
    config = compose("demo", "hardware=gpu1")
    assert "There is no GPU here" in " ".join(notes(config, planned()))
    assert "memory of a GPU" in dict(describe(config, planned()))
    unknown = planned(size=Size(808, None, None, 30, 100, "assumed", "expected"), per_epoch=None, earliest=None)
    lines = dict(describe(config, unknown))
    assert lines["training text"] == "not known (assumed)"
    assert not {"an epoch", "of an epoch", "to the end", "warmup"} & lines.keys()
    of_eight = " ".join(notes(config, planned(processes=8)))
    assert "Communication between processes is not in it" in of_eight
    assert "gradients once more" in of_eight
    recomputed = compose("demo", "hardware=cpu", "model.checkpoint_activations=true")
    assert "inputs of layers that are computed again." in " ".join(notes(recomputed, planned()))


@pytest.mark.parametrize(
    ("patience", "epochs", "updates", "found"),
    [
        (10, 0, 0, (1100, None)),
        (5, 8, 0, (600, 800)),
        (-1, 8, 0, (800, 800)),
        (-1, 8, 500, (500, 500)),
        (10, 0, 200, (200, 200)),
    ],
)
def test_when_a_run_can_end(patience, epochs, updates, found):
    settings = {"checkpoint": {"patience": patience}, "optimization": {"max_epoch": epochs, "max_update": updates}}
    assert ends(OmegaConf.create(settings), per_epoch=100) == found


@pytest.mark.parametrize(
    ("experiment", "types", "sentences", "tokens", "length"),
    [
        ("wmt14", 32_768, 4_500_966, 137_628_246, 31),
        ("iwslt14", 10_008, 160_239, 4_195_830, 26),
        ("multi30k", 5008, 29_000, 870_000, 30),  # 30 tokens a sentence are assumed
        ("ptb", 10_002, 29_050, 929_589, 32),
        ("wikitext103", 267_737, 1_290_338, 103_227_021, 80),
    ],
)
def test_the_expected_size_of_a_corpus_that_is_not_prepared(experiment, types, sentences, tokens, length, tmp_path):
    size = corpus_size(compose(experiment, f"data_dir={tmp_path}"))
    assert (size.types, size.sentences, size.tokens, size.length) == (types, sentences, tokens, length)
    assert size.sentences == math.ceil(tokens / length) or not size.in_segments
    assert "not prepared here" in size.text_from
    assert "not prepared here" in size.types_from


def test_a_plan_on_the_command_line_leaves_nothing_behind(normplugins, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = normplugins("run", "demo", "-m", "norm=ln,pn", "dry_run=true", *TINY)
    assert status == 0
    assert len(re.findall(r"^demo (ln|pn).* seed 1: a plan\. Nothing is fetched", out, re.MULTILINE)) == 2
    assert len(re.findall(r"^  parameters +[\d,]+ *$", out, re.MULTILINE)) == 2
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="at least 1"):
        make_plan(compose("demo", "evaluate.beam=0"))
    assert "beam" in refused("run", "demo", "dry_run=true", "evaluate.beam=0")


def test_a_plan_names_no_other_cell():
    assert compose("demo", "norm=pn").variant == compose_config("demo", ["norm=pn", "tracking=none"]).variant


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.004, "0.00 s"),
        (7.25, "7.2 s"),
        (45, "45 s"),
        (90, "1.5 min"),
        (3586, "60 min"),
        (7200, "2.0 h"),
        (4e6, "46 days"),
    ],
)
def test_times_for_people(seconds, text):
    assert human(seconds) == text


def test_bytes_for_people():
    assert (size_of(880_000), size_of(9_000_000_000)) == ("0.88 MB", "9.00 GB")
