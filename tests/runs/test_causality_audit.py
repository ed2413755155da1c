"""``normplugins analyze causality`` on tiny trained runs: its record, and the runs that it refuses."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

SMALL = ["--segments", "3", "--draws", "1"]


@pytest.fixture
def analyze(made_up_text, monkeypatch, accepted, tmp_path):
    """Calls the command for a run, where its own was given; returns the record and what was said."""

    def call(run, *arguments):
        monkeypatch.chdir(run.folder)
        monkeypatch.setenv("NORMPLUGINS_MIRROR", str(made_up_text))
        said = accepted("analyze", "causality", run.directory, "--results", tmp_path, *SMALL, *arguments)
        of = run.record
        path = tmp_path / "causality" / "ptb" / of["variant"] / f"seed{of['seed']}.json"
        return json.loads(path.read_text(encoding="utf-8")), said

    return call


def test_an_unmasked_run_and_a_causal_one(analyze, tensor_lm, transformer_lm, tmp_path):
    unmasked, said = analyze(tensor_lm)
    assert unmasked["norm"] == "pn"
    assert unmasked["model"] == {
        "name": "tensor_transformer_lm",
        "causal": False,
        "masked": False,
        "normalize_before": False,
    }
    assert unmasked["run"]["ppl"] == tensor_lm.record["metrics"]["ppl"]["score"]
    assert unmasked["probe"] == {"draws": 1, "segments": 3, "trials": 3, "seed": 1, "batch": [6, 8]}
    assert unmasked["warmup"] == {"updates": 24, "of": 6}
    assert not unmasked["measured"]["evaluation"]["identical"]
    assert unmasked["measured"]["training"]["other_segment"]["identical"], "PN's warmup has ended"
    assert not unmasked["measured"]["training_in_warmup"]["other_segment"]["identical"]
    assert {"git_commit", "hardware", "versions", "date", "seconds"} <= unmasked.keys()
    assert f"written: {tmp_path / 'causality.md'}" in said

    causal, said = analyze(transformer_lm)
    assert causal["measured"]["evaluation"]["identical"]
    assert causal["measured"]["training"]["identical"]
    assert causal["measured"]["training_in_warmup"] is causal["warmup"] is None
    assert "evaluation mode: |change of log p| 0, to the bit" in said

    with Image.open(tmp_path / "figures" / "causality.png") as figure:
        assert figure.width > figure.height > 200


@pytest.mark.slow
def test_a_masked_model_whose_norm_sees_the_future_is_labelled_by_its_norm(analyze, train_language_model):
    run = train_language_model("norm=instance", "model.causal=true")
    assert run.record["label"].startswith("not causal: its norm")
    found, _ = analyze(run)
    assert (found["model"]["causal"], found["model"]["masked"]) == (False, True)
    assert not found["measured"]["evaluation"]["identical"]


def test_the_last_positions_perplexity_is_the_runs_own(analyze, tensor_lm):
    places = analyze(tensor_lm)[0]["by_place"]
    logprobs = np.load(tensor_lm.directory / "test.logprobs.npy").astype(float)
    last = [logprobs[index] for index in range(7, len(logprobs), 8)]
    assert places["segments"] == len(last)
    assert places["last"] == pytest.approx(np.exp(-np.mean(last)))


def test_a_run_without_saved_log_probabilities_has_no_such_number(analyze, tensor_lm, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(tensor_lm.directory, moved)
    (moved / "test.logprobs.npy").unlink()
    run = type(tensor_lm)(tensor_lm.folder, moved, "")
    assert analyze(run)[0]["by_place"] is None


def test_what_cannot_be_analyzed(refused, tensor_lm, tmp_path):
    def line(*arguments):
        return refused("analyze", "causality", *arguments, "--results", tmp_path / "results")

    assert "holds no run" in line(tmp_path / "nowhere")
    assert "--draws 0: at least 1" in line(tensor_lm.directory, "--draws", "0")
    run = tmp_path / "run"
    shutil.copytree(tensor_lm.directory, run)
    (run / "checkpoint_best.pt").unlink()
    assert "checkpoint_best.pt is missing in" in line(run)
    config = (run / "config.yaml").read_text(encoding="utf-8")
    (run / "config.yaml").write_text(config.replace("_name: language_modeling", "_name: translation"), encoding="utf-8")
    assert "is of task translation; language_modeling is needed" in line(run)
    assert not (tmp_path / "results").exists()
