"""fairseq's command-line tools: the stock ones, and the mean of checkpoints."""

from importlib.metadata import distribution

import pytest
import torch

from normplugins.fairseq_tools import AVERAGE, TOOLS
from tests.helpers.runs import load


def write(path, value):
    torch.save({"model": {"weight": torch.full((2,), float(value))}, "extra_state": {}}, path)
    return path


def test_each_tool_has_a_console_script_and_fairseq_has_no_other():
    ours, fairseqs = (
        {script.name for script in distribution(package).entry_points if script.name.startswith("fairseq-")}
        for package in ("normplugins", "fairseq")
    )
    assert ours == {f"fairseq-{tool}" for tool in TOOLS}
    assert fairseqs == ours - {f"fairseq-{AVERAGE}"}


@pytest.mark.parametrize(
    ("options", "mean"),
    [
        (["--num-epoch-checkpoints", 2], 6.5),
        (["--num-epoch-checkpoints", 2, "--checkpoint-upper-bound", 3], 2.5),
        (["--num-update-checkpoints", 2], 35),
    ],
)
def test_the_last_checkpoints_are_averaged(tmp_path, normplugins, options, mean):
    for epoch in (2, 3, 10):
        write(tmp_path / f"checkpoint{epoch}.pt", epoch)
    for update, value in ((100, 10), (900, 30), (1000, 40)):
        write(tmp_path / f"checkpoint_1_{update}.pt", value)
    write(tmp_path / "checkpoint_best.pt", 1000)
    output = tmp_path / "mean.pt"
    status, _, errors = normplugins("fairseq", AVERAGE, "--inputs", tmp_path, "--output", output, *options)
    assert status == 0, errors
    assert load(output)["model"]["weight"].tolist() == [mean, mean]


def test_given_files_are_averaged_and_too_few_are_refused(tmp_path, normplugins, refused):
    paths = [write(tmp_path / f"{value}.pt", value) for value in (1, 3)]
    assert normplugins("fairseq", AVERAGE, "--inputs", *paths, "--output", tmp_path / "mean.pt")[0] == 0
    assert load(tmp_path / "mean.pt")["model"]["weight"].tolist() == [2, 2]
    line = refused("fairseq", AVERAGE, "--inputs", tmp_path, "--output", "x.pt", "--num-epoch-checkpoints", 3)
    assert "holds 0 of the 3 checkpoints to average" in line
