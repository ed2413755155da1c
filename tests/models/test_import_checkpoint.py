from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

import normplugins.models  # noqa: F401  (first: it lets fairseq import)

# isort: split
from fairseq.checkpoint_utils import load_model_ensemble_and_task

from normplugins.models.import_checkpoint import import_checkpoint
from normplugins.utils.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden" / "released_checkpoint"


def read_golden() -> dict:
    names = ("AverageMeter", "TimeMeter", "StopwatchMeter")
    meters = [(type(name, (), {}), f"fairseq.meters.{name}") for name in names]
    # compat allows Namespace; leaving this block would take it back if it were listed here
    with torch.serialization.safe_globals(meters):
        state = torch.load(GOLDEN / "checkpoint.pt", weights_only=True)
    return {name: state[name] for name in ("args", "model", "optimizer_history")}


def refused(state, tmp_path, match):
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=match) as error:
        import_checkpoint(tmp_path / "bad.pt", tmp_path / "out.pt")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.pt").exists()


def test_an_imported_checkpoint_gives_the_released_log_probabilities(tmp_path):
    import_checkpoint(GOLDEN / "checkpoint.pt", tmp_path / "new" / "checkpoint.pt")
    (model,), cfg, task = load_model_ensemble_and_task([str(tmp_path / "new" / "checkpoint.pt")])
    io_ = np.load(GOLDEN / "io.npz")
    inputs = [torch.from_numpy(io_[name]) for name in ("src_tokens", "src_lengths", "prev_output_tokens")]
    with torch.no_grad():
        log_probs = model.eval().get_normalized_probs(model(*inputs), log_probs=True)
    np.testing.assert_allclose(log_probs.numpy(), io_["log_probs"], rtol=0, atol=1e-5)
    assert cfg.model.encoder_norm == "pn"
    assert cfg.model.decoder_norm == "ln"
    assert (cfg.model.norm_warmup_updates, cfg.model.activation_dropout) == (20, 0.1)
    assert len(task.source_dictionary) == 112
    assert model.encoder.final_norm.num_updates.item() == 60


def test_the_dictionaries_may_lie_elsewhere(tmp_path):
    torch.save(read_golden(), tmp_path / "checkpoint.pt")
    import_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "out.pt", data=GOLDEN)
    _, _, task = load_model_ensemble_and_task([str(tmp_path / "out.pt")])
    assert len(task.target_dictionary) == 112


def test_a_destination_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/out.pt"):
        import_checkpoint(GOLDEN / "checkpoint.pt", tmp_path / "file" / "out.pt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*folder"):
        import_checkpoint(GOLDEN / "checkpoint.pt", tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


class Malicious:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path, capsys):
    refused(read_golden() | {"extra_state": Malicious()}, tmp_path, "bad.pt is refused: .*print")
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_checkpoint(content, tmp_path):
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.pt is not a checkpoint"):
        import_checkpoint(tmp_path / "bad.pt", tmp_path / "out.pt")


def test_a_truncated_checkpoint(tmp_path):
    (tmp_path / "bad.pt").write_bytes((GOLDEN / "checkpoint.pt").read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"bad\.pt is not a checkpoint, or a damaged one"):
        import_checkpoint(tmp_path / "bad.pt", tmp_path / "out.pt")


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"absent\.pt: No such file"):
        import_checkpoint(tmp_path / "absent.pt", tmp_path / "out.pt")


@pytest.mark.parametrize("state", [[1, 2], {"model": {}}, {"args": Namespace()}, {"args": {}, "model": {}}])
def test_something_else_that_torch_can_load(state, tmp_path):
    refused(state, tmp_path, "not a checkpoint of fairseq")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"encoder_norm_self": "mystery", "encoder_norm_ff": "mystery"},
            "encoder norms mystery; .*power, layer, batch",
        ),
        ({"encoder_norm_self": "batch"}, "encoder norms batch, power; one norm for the whole stack"),
        ({"encoder_learned_pos": True}, "encoder_learned_pos=True has no counterpart"),
        ({"decoder_normalize_before": False}, "must both be pre-norm or both post-norm"),
        ({"encoder_layers": 4}, "model lacks encoder.layers.3"),
        ({"encoder_layers": 2}, "model has encoder.layers.2.*which norm_transformer does not have"),
        ({"encoder_ffn_embed_dim": 24}, r"encoder.layers.0.fc1.weight has shape \(48, 24\)"),
    ],
)
def test_settings_that_cannot_be_imported_are_named(changes, match, tmp_path):
    state = read_golden()
    vars(state["args"]).update(changes)
    refused(state, tmp_path, match)


def test_missing_settings_and_weights_are_named(tmp_path):
    state = read_golden()
    del state["args"].encoder_norm_self
    refused(state, tmp_path, "lack 'encoder_norm_self'")
    state = read_golden()
    del state["model"]["encoder.layers.1.self_attn.k_proj.weight"]
    refused(state, tmp_path, "model lacks encoder.layers.1.self_attn.k_proj.weight")
    state = read_golden()
    del state["model"]["encoder.embed_tokens.weight"]
    refused(state, tmp_path, "model lacks encoder.embed_tokens.weight")
