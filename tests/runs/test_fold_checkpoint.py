"""``normplugins fold``: the written checkpoint can be read by every tool and computes the same."""

import re
from argparse import Namespace
from hashlib import sha256

import pytest
import torch

from tests.helpers.runs import load, succeed


@pytest.fixture
def foldable(trained, tmp_path):
    """The checkpoint of the trained run, as a model whose PN has no group scaling."""
    return without_group_scaling(trained.directory / "checkpoint_averaged.pt", tmp_path / "model.pt")


def without_group_scaling(source, path, **changes):
    state = load(source)
    state["cfg"]["model"]["norm_group_scaling"] = False
    del state["extra_state"]["seal"]  # which would no longer fit
    torch.save(state | changes, path)
    return path


def translations(trained, checkpoint, tmp_path):
    """Return the hypotheses that fairseq's generate prints, with their sentences, and their scores."""
    (data,) = trained.data_dir.glob("demo/*/bin")
    arguments = ["fairseq", "generate", str(data), "--path", str(checkpoint), "--cpu", "--beam", "3", "--nbest", "3"]
    said = succeed([*arguments, "--max-len-b", "12", "--max-tokens", "200"], tmp_path)
    found = re.findall(r"^H-(\d+)\t(-[\d.]+)\t(.*)$", said, re.MULTILINE)
    assert len(found) == 60
    return [(sentence, text) for sentence, _, text in found], [float(score) for _, score, _ in found]


def test_translations_of_fairseq_do_not_change(trained, foldable, accepted, tmp_path):
    said = accepted("fold", foldable)
    lines = said.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [["encoder", "pn"]] * 2 + [["decoder", "ln"]] * 2
    assert "folded into qkv, fc1" in lines[0]
    assert "stays: it depends on the values of each token" in lines[2]
    assert lines[4] == "settings: encoder_norm=none"
    assert lines[-1] == f"written to {tmp_path / 'model_folded.pt'}"
    before, after = (int(number.replace(",", "")) for number in re.findall(r"[\d,]+(?= before| after)", lines[5]))
    source, folded = load(foldable), load(tmp_path / "model_folded.pt")
    assert "last_optimizer_state" not in folded
    gone = source["model"].keys() - folded["model"].keys()
    assert before - after == sum(source["model"][name].numel() for name in gone)
    assert all(name.startswith("encoder.") and "norm." in name for name in gone)
    origin = folded["extra_state"]["folded_from"]
    assert (origin["checkpoint"], origin["sha256"]) == ("model.pt", sha256(foldable.read_bytes()).hexdigest())
    assert (origin["settings"]["encoder_norm"], origin["settings"]["norm_group_scaling"]) == ("pn", False)
    assert folded["extra_state"]["averaged_from"] == source["extra_state"]["averaged_from"]
    found, scores = translations(trained, tmp_path / "model_folded.pt", tmp_path)
    found_before, scores_before = translations(trained, foldable, tmp_path)
    assert found == found_before
    assert scores == pytest.approx(scores_before, abs=1e-3)


def test_a_post_norm_language_model_is_refused_with_the_reason(tensor_lm, refused, tmp_path):
    model = without_group_scaling(tensor_lm.directory / "checkpoint_best.pt", tmp_path / "lm.pt")
    assert "no norm that can be folded. pn: its output is also the residual" in refused("fold", model)


def test_dtypes_stay_and_a_namespace_of_fairseq_train_is_accepted(foldable, accepted, tmp_path):
    state = load(foldable)
    state["model"] = {name: value.half() if "running" not in name else value for name, value in state["model"].items()}
    state["cfg"]["model"] |= {"_name": "transformer_pn_iwslt_de_en", "decoder_norm": "pnv"}
    for name in list(state["model"]):
        if name.startswith("decoder.") and name.endswith("norm.weight"):
            state["model"][name.replace("weight", "running_phi")] = torch.rand(16) + 1
    state["cfg"]["model"] = Namespace(**state["cfg"]["model"])
    torch.save(state, foldable)
    assert "decoder_norm={attention:none,ffn:none,final:pnv}" in accepted("fold", foldable)
    folded = load(tmp_path / "model_folded.pt")
    kept = {name: value.dtype for name, value in folded["model"].items()}
    assert kept.pop("decoder.final_norm.running_phi") == torch.float32
    assert {*kept.values()} == {torch.float16}
    assert folded["cfg"]["model"].decoder_norm == "{attention:none,ffn:none,final:pnv}"


def test_a_folded_source_and_an_unwritable_destination_are_refused(foldable, accepted, refused, tmp_path):
    assert "is the checkpoint to fold" in refused("fold", foldable, foldable)
    (tmp_path / "file").touch()
    assert "could not write" in refused("fold", foldable, tmp_path / "file" / "folded.pt")
    (tmp_path / "folder").mkdir()
    assert "could not write" in refused("fold", foldable, tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "model.pt"]
    accepted("fold", foldable)
    assert "is folded already, from model.pt" in refused("fold", tmp_path / "model_folded.pt")


def test_other_checkpoints_are_refused(trained, foldable, refused, tmp_path):
    line = refused("fold", trained.directory / "checkpoint_averaged.pt", tmp_path / "folded.pt")
    assert "no norm that can be folded. pn: its group scaling" in line
    assert "ln: it depends on the values of each token" in line
    state = load(foldable)
    for change in ({"cfg": None}, {"cfg": {"model": {"_name": "transformer"}}}, {"cfg": {"model": "resnet50"}}):
        torch.save(state | change, tmp_path / "bad.pt")
        assert "is not a checkpoint of norm_transformer, norm_transformer_lm" in refused("fold", tmp_path / "bad.pt")
    torch.save(state | {"model": None}, tmp_path / "bad.pt")
    assert "is not a checkpoint: it holds no model" in refused("fold", tmp_path / "bad.pt")
    del state["model"]["encoder.layers.0.self_attention.sublayer.qkv.bias"]
    torch.save(state, tmp_path / "bad.pt")
    assert "its weights are not those of the norm_transformer" in refused("fold", tmp_path / "bad.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pt", "model.pt"]
