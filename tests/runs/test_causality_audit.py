"""``normplugins analyze causality`` on tiny trained runs: its record, and the runs that it refuses."""

import json
import shutil

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
    assert unmasked["probe"] == {"draws": 1, "segments": 3, "trials": 3, "seed": 1, "batch": [6, 8]}
    assert unmasked["warmup"] == {"updates": 24, "of": 6}
    assert not unmasked["measured"]["evaluation"]["identical"]
    in_training, in_warmup = (unmasked["measured"][mode]["mean"] for mode in ("training", "training_in_warmup"))
    assert in_training != in_warmup, "PN's warmup has ended"
    assert {"git_commit", "hardware", "versions", "date", "seconds"} <= unmasked.keys()
    assert f"written: {tmp_path / 'causality.md'}" in said

    causal, said = analyze(transformer_lm)
    assert causal["measured"]["evaluation"]["identical"]
    assert causal["measured"]["training"]["identical"]
    assert causal["measured"]["training_in_warmup"] is causal["warmup"] is None
    assert "evaluation mode: |change of log p| 0 (bitwise)" in said

    with Image.open(tmp_path / "figures" / "causality.png") as figure:
        assert figure.width > figure.height > 200


@pytest.mark.slow
def test_a_masked_model_whose_norm_sees_the_future_is_labelled_by_its_norm(analyze, train_language_model):
    run = train_language_model("norm=instance", "model.causal=true")
    assert run.record["label"].startswith("not causal: its norm")
    found, _ = analyze(run)
    assert (found["model"]["causal"], found["model"]["masked"]) == (False, True)
    assert not found["measured"]["evaluation"]["identical"]


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
