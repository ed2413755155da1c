"""Runs of language models are recorded, labelled, resumed after a kill, and scored again."""

import json
import math
import re
import shutil
import signal

import numpy as np
import pytest

from normplugins.models.language_model_config import NORM_SEES_THE_FUTURE, SEES_THE_FUTURE
from normplugins.runs.compose import compose_config
from normplugins.runs.run import tracking
from tests.helpers.runs import LINES, TINY_LM, Point, command, differences, eval_lm, files, load, outcome, succeed

KILLS = [
    ("before a checkpoint within an epoch has its name", Point(r"os\.rename \S+checkpoint_last\.pt\.tmp", 3)),
    ("trained, not scored", Point(r"open \S*test\.logprobs")),
]


@pytest.mark.slow
def test_a_run_killed_anywhere_ends_like_an_uninterrupted_one(tensor_lm, made_up_text, tmp_path):
    arguments = ["run", "ptb", "norm=pn", "tracking=none", "run_dir=run", *TINY_LM, f"data_dir={tensor_lm.data_dir}"]
    for where, point in KILLS:
        status, text = command(arguments, tmp_path, point)
        assert status == -signal.SIGKILL, f"not killed ({where}): {text}"
    succeed(arguments, tmp_path)
    assert differences(outcome(tensor_lm.folder, tensor_lm.directory), outcome(tmp_path, tmp_path / "run")) == []
    assert set(outcome(tmp_path, tmp_path / "run")["outputs"]) == {"test.logprobs.npy", "test.last.logprobs.npy"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "causal"), [("tensor_lm", False), ("transformer_lm", True)])
def test_record(name, causal, request):
    run = request.getfixturevalue(name)
    record, config = run.record, run.record["config"]
    assert config["model._name"] == {"tensor_lm": "tensor_transformer_lm"}.get(name, "norm_transformer_lm")
    assert config.get("model.causal", True) == causal
    assert (config["budget.name"], config["task.tokens_per_sample"]) == ("full", 8)
    tokens = record["corpus"]["counts"]["test"]["tokens"]
    assert record["corpus"]["counts"]["test"]["lines"] == LINES["test"]
    assert tokens % 8, "a text whose last segment is full shows nothing"
    every, full = record["metrics"]["ppl"], record["metrics"]["ppl_full_segments"]
    ends = f"causal:{'yes' if causal else 'no'}"
    assert every["signature"] == f"level:word|tokens:{tokens}|segment:8|context:0|partial:counted|{ends}"
    assert full["signature"] == f"level:word|tokens:{tokens // 8 * 8}|segment:8|context:0|partial:dropped|{ends}"
    logprobs = np.load(run.directory / "test.logprobs.npy")
    assert (logprobs.dtype, logprobs.shape) == (np.float32, (tokens,))
    for metric, part in ((every, logprobs), (full, logprobs[: tokens // 8 * 8])):
        assert metric["tokens"] == len(part)
        assert metric["nats"] == pytest.approx(-math.fsum(part.tolist()) / len(part), rel=1e-12)
        assert metric["score"] == pytest.approx(math.exp(metric["nats"]), rel=1e-12)
    assert (record["scored_by"], list(record["scores"]), record["translations"]) == ("best", ["best", "last"], {})
    assert record["scores"]["best"] == {"test": record["metrics"]}
    last = np.load(run.directory / "test.last.logprobs.npy")
    found = record["scores"]["last"]["test"]["ppl"]
    assert found["nats"] == pytest.approx(-math.fsum(last.tolist()) / len(last), rel=1e-12)
    assert f"\nlast: perplexity {found['score']:.2f}\n" in run.output
    assert record["decoding"]["tokens_per_second"] > 0
    assert every["score"] < record["corpus"]["unigram_ppl"]["test"]
    training = record["training"]
    assert (training["updates"], training["epochs"], training["averaged"]) == (24, 3, ["checkpoint_best.pt"])
    assert record["curves"]["train"][-1]["lr"] == 0
    # what was scored is the epoch with the best validation loss
    best = min(record["curves"]["valid"], key=lambda point: point["loss"])
    assert load(run.directory / "checkpoint_best.pt")["extra_state"]["history"]["epoch"] == best["epoch"]


def test_a_model_that_sees_the_future_is_labelled(tensor_lm, transformer_lm, tmp_path):
    title = next(line for line in tensor_lm.output.splitlines() if line.startswith("ptb pn"))
    assert SEES_THE_FUTURE in title
    assert SEES_THE_FUTURE in tensor_lm.output.rpartition("ppl_full_segments")[2]
    assert SEES_THE_FUTURE in (tensor_lm.directory / "train.log").read_text()
    assert SEES_THE_FUTURE not in transformer_lm.output
    for run in (tensor_lm, transformer_lm):
        for metric in run.record["metrics"].values():
            assert f"perplexity = {metric['score']:.2f}" in run.output
            assert metric["signature"] in run.output
    (bin_dir,) = tensor_lm.data_dir.glob("*/*/bin")
    checkpoint = tensor_lm.directory / "checkpoint_best.pt"
    status, said = command(["fairseq", "eval-lm", str(bin_dir), "--path", str(checkpoint), "--cpu"], tmp_path)
    assert (status, SEES_THE_FUTURE in said.splitlines()[-1]) == (1, True)


@pytest.mark.slow
def test_tracked_runs_carry_the_label_too(tmp_path):
    config = compose_config("ptb", ["tracking=none"])
    assert SEES_THE_FUTURE in tracking(config, tmp_path)["tags"]
    config.model.causal = True
    assert tracking(config, tmp_path)["tags"] == ["ptb", "ln", "ptb"]
    for masked in ("model.causal=true", "architecture=transformer"):
        by_norm = compose_config("ptb", ["tracking=none", "norm=instance", masked])
        assert tracking(by_norm, tmp_path)["tags"] == ["ptb", "instance", "ptb", NORM_SEES_THE_FUTURE]
    assert len(NORM_SEES_THE_FUTURE) <= 64, "the longest tag of wandb"


@pytest.mark.slow
def test_the_mean_of_an_adaptive_softmax_is_scored_as_by_eval_lm(accepted, at_home, tmp_path):
    """wikitext2's recipe on the made-up text, with the mean of two checkpoints."""
    at_home(tmp_path)
    corpus = ["corpus=ptb", "model.adaptive_softmax_cutoff='4,8'", "tracking=none", "run_dir=run"]
    accepted("run", "wikitext2", "model.causal=true", "evaluate.average=2", *corpus, *TINY_LM)
    record = json.loads((tmp_path / "run" / "record.json").read_text(encoding="utf-8"))
    assert record["training"]["averaged"] == ["checkpoint2.pt", "checkpoint3.pt"]
    kept = sorted(path.name for path in (tmp_path / "run").glob("checkpoint[0-9]*.pt"))
    assert kept == ["checkpoint2.pt", "checkpoint3.pt"], "older epochs are deleted"
    assert record["metrics"]["ppl"]["score"] < 30
    assert (record["scored_by"], list(record["scores"])) == ("averaged", ["averaged", "last", "best"])
    (bin_dir,) = tmp_path.glob("data/*/*/bin")
    bits = eval_lm(tmp_path / "run" / "checkpoint_averaged.pt", bin_dir, tmp_path)
    assert record["metrics"]["ppl"]["nats"] / math.log(2) == pytest.approx(bits, abs=1e-4)


def test_rescoring_slides_a_window(transformer_lm, accepted, at_home):
    at_home(transformer_lm.folder)
    before = files(transformer_lm.directory)
    said = accepted("evaluate", "run")
    assert f"perplexity = {transformer_lm.record['metrics']['ppl']['score']:.2f}" in said
    said = accepted("evaluate", "run", "evaluate.context=5", "evaluate.segment=16")
    signature = r"level:word\|tokens:\d+\|segment:16\|context:5\|partial:counted\|causal:yes"
    assert re.search(rf"^ppl: perplexity = [\d.]+ .*\n  {signature}\n", said, re.MULTILINE)
    assert files(transformer_lm.directory) == before


def test_rescoring_says_that_a_run_may_not_have_ended(transformer_lm, normplugins, at_home, tmp_path):
    """The checkpoint with the best validation loss is there long before the last update."""
    at_home(transformer_lm.folder)
    shutil.copytree(transformer_lm.directory, tmp_path / "run")
    (tmp_path / "run" / "record.json").unlink()
    (_, whole, _), (status, broken_off, _) = normplugins("evaluate", "run"), normplugins("evaluate", tmp_path / "run")
    assert status == 0
    assert "no record" in broken_off
    assert "no record" not in whole


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("evaluate.context=8", ["evaluate.context=8", "evaluate.segment"]),
        ("evaluate.segment=9", ["evaluate.segment=9", "at most 8"]),
        ("evaluate.batch_size=0", ["evaluate.batch_size", "at least 1"]),
        ("evaluate.beam=2", ["evaluate.beam=2", "evaluate.context"]),
        ("evaluate.average=3", ["evaluate.average=3", "evaluate.segment"]),
    ],
)
def test_rescoring_refuses(override, words, tensor_lm, refused, at_home):
    at_home(tensor_lm.folder)
    line = refused("evaluate", "run", override)
    assert all(word in line for word in words), line
