import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from normplugins.evaluation.exported import load_exported
from normplugins.export.safetensors import export
from tests.helpers.runs import load


@pytest.fixture
def run(trained, monkeypatch):
    monkeypatch.chdir(trained.folder)
    return trained.directory


@pytest.mark.parametrize("name", [None, "last", "checkpoint_best.pt"])
def test_the_round_trip_is_equal_to_the_bit(run, tmp_path, monkeypatch, name):
    source = export(run, tmp_path / "model", name)
    expected = load(source)["model"]
    monkeypatch.setattr(torch, "load", None)  # nothing is unpickled
    model, task, config = load_exported(tmp_path / "model")
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in expected.items())
    assert not model.training
    assert len(task.source_dictionary) == len(found["encoder.embed_tokens.weight"])
    assert config["checkpoint"]["file"] == source.name


def test_tied_weights_are_stored_once_and_stay_tied(run, tmp_path):
    export(run, tmp_path / "model")
    model = load_exported(tmp_path / "model")[0]
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    assert len(weights) < len(model.state_dict())
    # older versions kept the first of the names
    first = {value.data_ptr(): name for name, value in reversed(model.state_dict().items())}
    state = model.state_dict()
    save_file({name: state[name] for name in first.values()}, path)
    assert load_file(path).keys() != weights.keys()
    found = load_exported(tmp_path / "model")[0].state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_the_card_is_made_from_the_record(run, trained, tmp_path):
    export(run, tmp_path / "model")
    _, header, text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    metrics = trained.record["metrics"]
    assert yaml.safe_load(header)["pipeline_tag"] == "translation"
    assert all(f"| {name} | {metric['score']:.2f} |" in text for name, metric in metrics.items())
    assert metrics["sacrebleu"]["signature"].replace("|", "\\|") in text
    assert all(digest in text for digest in trained.record["corpus"]["sha256"].values())
    assert str(trained.folder) not in text + (tmp_path / "model" / "config.json").read_text(encoding="utf-8")
    assert (tmp_path / "model" / "codes").is_file()


def test_refusals(run, trained, tmp_path, refused):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "not empty" in refused("export", run, tmp_path / "full")
    assert "no checkpoint 'other'" in refused("export", run, tmp_path / "model", "--checkpoint", "other")
    copy = shutil.copytree(run, tmp_path / "copy")
    with (copy / "checkpoint_averaged.pt").open("r+b") as file:
        file.seek(2000)
        file.write(b"changed")
    assert "has changed" in refused("export", copy, tmp_path / "model")
    (copy / "record.json").unlink()
    assert "is not finished" in refused("export", copy, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_damaged_export_is_refused(run, tmp_path):
    export(run, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(Exception, match="damaged"):
        load_exported(tmp_path / "model")
    weights.unlink()
    with pytest.raises(Exception, match=r"it has no model\.safetensors"):
        load_exported(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"normplugins_format": 9}), encoding="utf-8")
    with pytest.raises(Exception, match="another version"):
        load_exported(tmp_path / "model")


def test_a_language_model_needs_no_input_file(transformer_lm, tmp_path, monkeypatch):
    home = shutil.copytree(transformer_lm.folder, tmp_path / "home")
    shutil.rmtree(home / "data" / "ptb" / "raw")
    monkeypatch.chdir(home)
    source = export(home / "run", tmp_path / "model")
    found = load_exported(tmp_path / "model")[0].state_dict()
    assert all(torch.equal(found[key], value) for key, value in load(source)["model"].items())
