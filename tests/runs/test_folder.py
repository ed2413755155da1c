"""A run's folder: the files that ``force`` deletes, and its config."""

import pytest

from normplugins.runs import folder
from normplugins.utils.errors import UserError


def test_clear_deletes_only_files_of_the_run(tmp_path):
    made = ("checkpoint3.pt", "checkpoint_last.pt", ".checkpoint4.pt.tmp", "test.logprobs.npy", "train.log")
    for name in (folder.CONFIG, folder.RECORD, *made, "thesis.tex"):
        (tmp_path / name).touch()
    (tmp_path / "wandb").mkdir()
    folder.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_requeued_job_clears_a_folder_once(tmp_path, monkeypatch):
    def cleared(job, restarts):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts) if restarts else monkeypatch.delenv(
            "SLURM_RESTART_COUNT", raising=False
        )
        for name in (folder.CONFIG, "checkpoint_last.pt"):
            (tmp_path / name).touch()
        folder.clear(tmp_path)
        return not (tmp_path / "checkpoint_last.pt").exists()

    assert cleared("7", "1"), "the first attempt ended before it cleared the folder"
    assert not cleared("7", "2")
    assert cleared("8", "")
    assert cleared("8", ""), "the job runs the command a second time"


def test_clear_refuses_a_folder_without_a_run(tmp_path):
    (tmp_path / "checkpoint_of_something_else.pt").touch()
    with pytest.raises(UserError, match=r"holds files, but no run"):
        folder.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_of_something_else.pt"]


def test_a_run_has_one_wandb_id(tmp_path):
    first = folder.wandb_id(tmp_path)
    assert folder.wandb_id(tmp_path) == first
    (tmp_path / folder.CONFIG).touch()
    folder.clear(tmp_path)
    assert folder.wandb_id(tmp_path) != first


FIVE = "experiment: demo\nvariant: ln\nseed: 1\ntask: {_name: translation}\nnorm: {name: ln}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (FIVE, "data_dir is missing or unknown"),
        (FIVE + "data_dir: data\n", "corpus.name is missing or unknown"),
        (FIVE.replace("_name: translation", "_name: poetry"), "task._name is missing or unknown"),
        (FIVE.replace("_name: translation", "_name: [1]"), "task._name is missing or unknown"),
        (FIVE.replace("{name: ln}", "[ln]"), "norm.name is missing or unknown"),
        ("[1, 2]", "experiment is missing or unknown"),
        ("3", "cannot be read"),
        ("a: ${b}", "cannot be read"),
        ("[" * 10_000, "cannot be read"),
    ],
)
def test_a_damaged_config_is_refused_in_one_line(tmp_path, refused, content, reason):
    (tmp_path / folder.CONFIG).write_text(content, encoding="utf-8")
    line = refused("evaluate", tmp_path)
    assert f"{tmp_path / folder.CONFIG} " in line
    assert reason in line
    assert line.endswith("restore it, or start the run again with force=true")
    if content == FIVE:
        assert refused("translate", tmp_path) == refused("clean", "--yes", tmp_path) == line
