"""Averaging, keeping, writing and loading checkpoints."""

import contextlib
import re
import subprocess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normplugins.training import checkpoints
from normplugins.utils.errors import UserError
from tests.helpers.runs import full_disk, load, write_malicious


def write(path, weight, count, dtype=torch.float32):
    model = {
        "layer.weight": weight.to(dtype),
        "norm.running_phi": weight[0].abs(),
        "norm.num_updates": torch.tensor(count),
    }
    torch.save({"model": model, "cfg": {"a": 1}, "last_optimizer_state": {"b": 2}, "extra_state": {"c": 3}}, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_average_is_the_mean_with_the_counts_of_the_last_checkpoint(dtype, tmp_path):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(3, 4, generator=generator) * 10**power for power in (0, 3, -2)]
    paths = [write(tmp_path / f"checkpoint{i}.pt", weight, 100 + i, dtype) for i, weight in enumerate(weights)]
    checkpoints.average(paths, tmp_path / "mean.pt")
    state = load(tmp_path / "mean.pt")
    stored = torch.stack([weight.to(dtype) for weight in weights]).double()
    assert state["model"]["layer.weight"].dtype == dtype
    assert torch.equal(state["model"]["layer.weight"], (stored.sum(0) / 3).to(dtype))
    statistics = torch.stack([weight[0].abs() for weight in weights]).double()
    assert torch.equal(state["model"]["norm.running_phi"], (statistics.sum(0) / 3).float())
    assert state["model"]["norm.num_updates"] == 102
    assert state["model"]["norm.num_updates"].dtype == torch.int64
    assert state["cfg"] == {"a": 1}
    assert "last_optimizer_state" not in state
    assert checkpoints.averaged_from(tmp_path / "mean.pt") == [path.name for path in paths]


def test_averaging_nothing_or_different_models_is_refused(tmp_path):
    with pytest.raises(UserError, match="not finished an epoch"):
        checkpoints.average([], tmp_path / "mean.pt")
    one = write(tmp_path / "checkpoint1.pt", torch.ones(2, 2), 1)
    torch.save({"model": {"other": torch.ones(1)}}, tmp_path / "checkpoint2.pt")
    narrower = write(tmp_path / "checkpoint3.pt", torch.ones(2, 1), 1)  # it could be broadcast
    for another in (tmp_path / "checkpoint2.pt", narrower):
        with pytest.raises(UserError, match=rf"{another.name} holds another model"):
            checkpoints.average([one, another], tmp_path / "mean.pt")
    assert not (tmp_path / "mean.pt").exists()


def test_an_average_that_does_not_fit_on_the_disk_leaves_the_earlier_file(tmp_path):
    paths = [write(tmp_path / f"checkpoint{i}.pt", torch.ones(200, 200), i) for i in (1, 2)]
    checkpoints.average(paths[:1], tmp_path / "mean.pt")
    before = (tmp_path / "mean.pt").read_bytes()
    with full_disk(10_000), pytest.raises(UserError, match=r"could not write the checkpoint .*mean\.pt"):
        checkpoints.average(paths, tmp_path / "mean.pt")
    assert (tmp_path / "mean.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_checkpoints_of_epochs_are_in_the_order_of_their_numbers(tmp_path):
    for name in ("100", "2", "11", "9", "_last", "_best", "_averaged"):
        (tmp_path / f"checkpoint{name}.pt").touch()
    found = [path.name for path in checkpoints.epoch_checkpoints(tmp_path)]
    assert found == ["checkpoint2.pt", "checkpoint9.pt", "checkpoint11.pt", "checkpoint100.pt"]


def test_the_error_of_loading_names_the_reason(tmp_path):
    proof = tmp_path / "proof"
    write_malicious(tmp_path / "evil.pt", proof)
    with pytest.raises(UserError, match=r"evil\.pt was refused: loading it would run the code \S*mkdir"):
        checkpoints.load(tmp_path / "evil.pt")
    assert not proof.exists()
    whole = write(tmp_path / "whole.pt", torch.ones(50, 50), 1).read_bytes()
    for name, content in {"cut": whole[:3000], "empty": b"", "text": b"no checkpoint"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} (was refused|cannot be read)"):
            checkpoints.load(tmp_path / name)
    for extra in ([1], {"history": 3}):
        torch.save({"model": {}, "extra_state": extra}, tmp_path / "other.pt")
        with pytest.raises(UserError, match="extra_state is not one of fairseq"):
            checkpoints.load(tmp_path / "other.pt")
    with pytest.raises(UserError, match="missing cannot be read"):
        checkpoints.load(tmp_path / "missing")


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(deadline=None)
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path_factory, place, bit):
    path = tmp_path_factory.mktemp("flipped") / "checkpoint1.pt"
    state = {"model": {"weight": torch.arange(300.0)}, "extra_state": {"history": {"epoch": 1}}}
    checkpoints.write(state, path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        assert torch.equal(checkpoints.load(path)["model"]["weight"], state["model"]["weight"])


def test_a_link_is_replaced_and_the_checkpoint_that_it_points_to_stays(tmp_path):
    first, second = ({"model": {"weight": torch.full((5000,), value)}, "extra_state": {}} for value in (1.0, 2.0))
    checkpoints.write(first, tmp_path / "checkpoint1.pt")
    (tmp_path / checkpoints.LAST).symlink_to("checkpoint1.pt")
    with full_disk(10_000), pytest.raises(UserError, match="An earlier file is unchanged"):
        checkpoints.write(second, tmp_path / checkpoints.LAST)
    assert (tmp_path / checkpoints.LAST).is_symlink()
    for path, also in ((tmp_path / checkpoints.LAST, []), (tmp_path / "checkpoint2.pt", [checkpoints.LAST])):
        checkpoints.write(second, path, also)
        assert [load(tmp_path / name)["model"]["weight"][0] for name in ("checkpoint1.pt", checkpoints.LAST)] == [1, 2]
        (tmp_path / checkpoints.LAST).unlink()
        (tmp_path / checkpoints.LAST).symlink_to("checkpoint1.pt")


def test_a_refused_checkpoint_names_the_newest_sound_one(tmp_path):
    for epoch in (1, 2, 3):
        state = {"model": {"weight": torch.ones(2)}, "extra_state": {"history": {"epoch": epoch}}}
        checkpoints.write(state, tmp_path / f"checkpoint{epoch}.pt")
    for name in ("checkpoint3.pt", checkpoints.LAST):
        (tmp_path / name).write_bytes(b"damaged")
    last, sound = tmp_path / checkpoints.LAST, tmp_path / "checkpoint2.pt"
    with pytest.raises(UserError, match=re.escape(f"To go on from the newest sound checkpoint: cp {sound} {last}")):
        checkpoints.load(last)
    (tmp_path / "checkpoint1.pt").rename(tmp_path / "checkpoint99.pt")
    with pytest.raises(UserError, match=r"checkpoint99\.pt was refused: it is the checkpoint of epoch 1\. Use another"):
        checkpoints.load(tmp_path / "checkpoint99.pt")
    sound.unlink()
    with pytest.raises(UserError, match="force=true starts the run again"):
        checkpoints.load(last)


@pytest.mark.parametrize("content", ["common:\n  seed: 1\n", "(lp0\n.", "multi30k pn seed 1\n", "", "\n"])
def test_a_file_that_is_no_checkpoint_is_called_so_without_advice_to_replace_one(tmp_path, content):
    checkpoints.write({"model": {"weight": torch.ones(2)}, "extra_state": {}}, tmp_path / "checkpoint1.pt")
    (tmp_path / "config.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.yaml was refused: it is damaged or not a checkpoint\. Use another"):
        checkpoints.load(tmp_path / "config.yaml")


def test_the_way_out_can_be_pasted_into_a_shell(tmp_path):
    folder = tmp_path / "at 10:30"
    checkpoints.write({"model": {"weight": torch.ones(2)}, "extra_state": {}}, folder / "checkpoint1.pt")
    (folder / checkpoints.LAST).write_bytes(b"damaged")
    with pytest.raises(UserError, match="cp ") as refusal:
        checkpoints.load(folder / checkpoints.LAST)
    command = re.search(r"checkpoint: (cp .*), then the same command", str(refusal.value))[1]
    subprocess.run(command, shell=True, check=True)
    assert checkpoints.load(folder / checkpoints.LAST)["model"]["weight"].tolist() == [1, 1]


def test_a_machine_without_memory_is_no_damage(tmp_path, monkeypatch):
    def out_of_memory(*_arguments, **_options):
        raise MemoryError

    monkeypatch.setattr(torch, "load", out_of_memory)
    with pytest.raises(MemoryError):
        checkpoints.load(tmp_path / "checkpoint_last.pt")
