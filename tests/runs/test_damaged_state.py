"""Files of a run that were damaged, edited or exchanged: refused in a line with the way out, or made again."""

import json
import os
import shutil

import pytest
import torch

from normplugins.training import checkpoints
from normplugins.training.checkpoint_seal import seal
from tests.helpers.runs import change_json, differences, load, outcome, tiny_run


def change_weights(path, value):
    state = load(path)
    next(iter(state["model"].values())).view(-1)[0] = value
    return state


def flip(path):
    torch.save(change_weights(path, 12.5), path)


def make_not_finite(path):
    checkpoints.write(change_weights(path, float("nan")), path)


def make_of_another_seed(path):
    state = load(path)
    state["extra_state"]["seal"]["run"]["seed"] = 2
    seal(state)
    torch.save(state, path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip, "its content has changed since it was written"),
        (make_not_finite, "is not finite"),
        (make_of_another_seed, "it belongs to another run (seed 2 there and 1 here)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9000]), "damaged or not a checkpoint"),
    ],
)
def test_a_last_checkpoint_that_cannot_be_trusted_is_refused(run, trained, refused, damage, reason):
    (run / "record.json").unlink()
    damage(run / checkpoints.LAST)
    message = refused(*tiny_run(trained))
    assert reason in message
    assert "the newest sound checkpoint: cp run/checkpoint3.pt run/checkpoint_last.pt, then the same command" in message


def test_after_the_way_out_the_same_command_ends_as_if_nothing_had_happened(run, trained, refused, accepted):
    (run / "record.json").unlink()
    for name in (checkpoints.LAST, checkpoints.AVERAGED, "checkpoint3.pt"):
        (run / name).unlink()  # unlinked first, because the last checkpoint and an epoch's are one file
        (run / name).write_bytes(b"damaged")
    assert "cp run/checkpoint2.pt run/checkpoint_last.pt" in refused(*tiny_run(trained))
    shutil.copy(run / "checkpoint2.pt", run / checkpoints.LAST)
    accepted(*tiny_run(trained))
    assert differences(outcome(trained.folder, trained.directory), outcome(run.parent, run)) == []


def test_a_stray_checkpoint_is_not_averaged(run, trained, refused):
    (run / "record.json").unlink()
    shutil.copy(run / "checkpoint1.pt", run / "checkpoint99.pt")
    assert "checkpoint99.pt was refused: it is the checkpoint of epoch 1" in refused(*tiny_run(trained))


def test_a_damaged_average_is_made_again(run, trained, accepted):
    (run / "record.json").unlink()
    flip(run / checkpoints.AVERAGED)
    accepted(*tiny_run(trained))
    assert differences(load(trained.directory / checkpoints.AVERAGED), load(run / checkpoints.AVERAGED)) == []


def test_a_damaged_best_checkpoint_is_not_scored(run, trained, refused):
    (run / "record.json").unlink()
    (run / checkpoints.BEST).unlink()
    (run / checkpoints.BEST).write_bytes(b"damaged")
    assert "checkpoint_best.pt" in refused(*tiny_run(trained))
    assert "checkpoint_best.pt" in refused(
        "evaluate", "run", "evaluate.checkpoint=best", f"data_dir={trained.data_dir}"
    )


@pytest.mark.parametrize("name", ["record.json", "scores.json", "provenance.json", "config.yaml"])
@pytest.mark.parametrize("content", [b'{"format": 2, "sco', None])
def test_a_damaged_file_of_state_is_refused_with_its_name(run, trained, refused, name, content):
    if name != "record.json":
        (run / "record.json").unlink()
    (run / name).unlink()
    if content is None:
        (run / name).mkdir()
    else:
        (run / name).write_bytes(content)
    message = refused(*tiny_run(trained))
    assert f"run/{name}" in message
    assert "delete it" in message or "force=true" in message


def test_the_record_of_another_seed_is_not_published(run, trained, refused):
    assert "holds a run with other settings" in refused(*tiny_run(trained), "seed=2")
    change_json(run / "record.json", seed=7)
    assert "run/record.json is the record of another run" in refused(*tiny_run(trained))


def test_a_run_is_not_resumed_with_another_corpus(run, trained, refused):
    (run / "record.json").unlink()
    change_json(run / "provenance.json", corpus="0" * 64)
    assert "has changed since the run" in refused(*tiny_run(trained))


def test_edited_translations_are_scored_again_rather_than_recorded(run, trained, accepted):
    (run / "record.json").unlink()
    hypotheses = next(run.glob("test.hypotheses*"))
    original = hypotheses.read_bytes()
    hypotheses.write_bytes(b"nonsense\n" * len(original.splitlines()))
    accepted(*tiny_run(trained))
    assert hypotheses.read_bytes() == original


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("bin/train.aa-bb.bb.bin", "force=true"), ("tokenized/reference.tokens.bb", "the same command")],
)
def test_nothing_is_recorded_if_a_prepared_file_has_changed(run, trained, refused, accepted, name, remedy):
    (run / "record.json").unlink()
    data = shutil.copytree(trained.data_dir, run.parent / "corpora")  # with the modification times
    (path,) = data.rglob(name.partition("/")[2])
    content, times = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    command = [*tiny_run(trained), f"data_dir={data}"]
    message = refused(*command)
    assert f"{name} has changed since the run in run began, so its result is not recorded: {remedy}" in message
    assert not (run / "record.json").exists()
    if remedy == "force=true":  # the next call has made the file again, but not the weights
        assert "has changed since the run in run began" in refused(*command)
        command.append(remedy)
    accepted(*command)
    assert differences(outcome(trained.folder, trained.directory), outcome(run.parent, run)) == []


def test_a_damaged_manifest_is_refused_by_a_dry_run(run, trained, refused):
    data = shutil.copytree(trained.data_dir, run.parent / "corpora")
    (path,) = data.rglob("corpus.json")
    path.write_bytes(b"{")
    assert "corpus.json is damaged (not JSON in UTF-8): delete it" in refused(
        *tiny_run(trained), f"data_dir={data}", "dry_run=true"
    )


@pytest.mark.slow
def test_settings_of_scoring_may_change_until_there_is_a_record(run, trained, accepted, refused):
    (run / "record.json").unlink()
    before = {name: load(run / name)["model"] for name in ("checkpoint_last.pt", "checkpoint_averaged.pt")}
    said = accepted(*tiny_run(trained), "evaluate.length_penalty=0.5")
    assert "update " not in said  # nothing was trained
    record = json.loads((run / "record.json").read_text())
    assert record["config"]["evaluate.length_penalty"] == 0.5
    assert differences(before, {name: load(run / name)["model"] for name in before}) == []
    assert "holds a run with other settings" in refused(*tiny_run(trained))
