"""``normplugins clean``: what a finished run does not need is deleted, and nothing else."""

import shutil

from normplugins.runs import folder
from tests.helpers.runs import change_json, files, tiny_run

GONE = {"checkpoint1.pt", "checkpoint2.pt", "checkpoint3.pt", "checkpoint_last.pt"}


def test_a_cleaned_run_is_complete_and_can_be_scored(run, trained, accepted):
    before = files(run)
    said = accepted("clean", "run", "--yes")
    assert "checkpoint3.pt, checkpoint_last.pt" in said
    after = files(run)
    assert before.keys() - after.keys() == GONE
    assert after.items() <= before.items()
    assert "already complete" in accepted(*tiny_run(trained))
    for name in ("averaged", "best"):
        said = accepted("evaluate", "run", f"evaluate.checkpoint={name}", f"data_dir={trained.data_dir}")
        assert f"bleu: BLEU = {trained.record['scores'][name]['test']['bleu']['score']:.2f} " in said
    assert "no finished run has a checkpoint that it does not need" in accepted("clean", "run")


def test_nothing_is_deleted_without_an_answer(run, refused, accepted, normplugins, monkeypatch):
    before = files(run)
    assert "can be deleted: confirm it with --yes" in refused("clean", "run")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "")
    assert accepted("clean", "run").endswith("nothing was deleted\n")
    status, output, errors = normplugins("clean", "run", "nowhere")
    assert (status, output.endswith("nothing was deleted\n")) == (1, True)
    assert errors.endswith("1 run not cleaned\n")
    assert files(run) == before


def test_a_run_without_a_sound_checkpoint_to_keep_is_left_alone(run, refused):
    averaged = run / "checkpoint_averaged.pt"
    content = bytearray(averaged.read_bytes())
    content[len(content) // 2] ^= 1
    averaged.write_bytes(content)
    before = files(run)
    assert "checkpoint_averaged.pt" in refused("clean", "run", "--yes")
    shutil.copy(run / "checkpoint_best.pt", averaged)
    assert "is not the checkpoint that run/record.json names" in refused("clean", "run", "--yes")
    averaged.unlink()
    assert "checkpoint_averaged.pt" in refused("clean", "run", "--yes")
    assert files(run).keys() == before.keys() - {averaged.name}


def test_unfinished_and_running_runs_are_left_alone(run, refused, accepted):
    before = files(run)
    with folder.locked(run):
        assert "another run" in refused("clean", "run", "--yes")
        assert "no finished run" in accepted("clean", "--runs", ".")
    change_json(run / "record.json", format=1, files={})
    assert "run/record.json has the format 1" in refused("clean", "run", "--yes")
    (run / "record.json").unlink()
    assert "the run in run is not finished" in refused("clean", "run", "--yes")
    assert "no finished run" in accepted("clean", "--runs", ".")
    assert files(run).keys() == before.keys() - {"record.json"}
    assert "there is no folder runs" in refused("clean")
