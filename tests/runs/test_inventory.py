"""``normplugins list``: each local run with its state, in a table that fits, without torch."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from normplugins.report.run_list import run_list
from normplugins.runs import folder
from normplugins.runs.inventory import find_runs, published_path, split_diverged, updates_made
from normplugins.utils.json_file import write_json
from tests.helpers.records import put_diverged, put_run, record


def add(root, cell, seed=1, score=None, log=""):
    """Add a run to the folder ``root``; one with a score has a record."""
    return put_run(root, record("multi30k", cell, seed, {"bleu": score}), finished=score is not None, log=log)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder with a run in each state."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs"
    add(root, "ln", score=35.25)
    done = add(root, "pn,norm.group_scaling=false", seed=2, score=36.5)
    published = published_path(tmp_path / "results", "multi30k", "pn,norm.group_scaling=false", 2)
    published.parent.mkdir(parents=True)
    shutil.copy(done / "record.json", published)
    add(root, "bn", log="epoch   1  update    100/5160  loss\nepoch   1  update    200/5160  loss\n")
    add(root, "pn", log="multi30k pn seed 1\n")
    add(root, "none")
    put_diverged(tmp_path / "results", "multi30k", "none", 1)
    (add(root, "rms", score=30.0) / "record.json").write_text("{", encoding="utf-8")
    (add(root, "scale") / "config.yaml").write_text("another: program", encoding="utf-8")
    (root / "multi30k" / "ln" / "seed1" / "wandb").mkdir()
    shutil.copy(done / "config.yaml", root / "multi30k" / "ln" / "seed1" / "wandb")
    return root


def test_a_stopped_run_keeps_its_progress(tmp_path):
    log = "epoch   1  update    200/5160  loss\nstopped by a signal; update 231 is saved\n"
    assert updates_made(add(tmp_path, "ln", log=log)) == (231, 5160)


def test_each_state_is_found(runs, tmp_path):
    with folder.locked(runs / "multi30k" / "pn" / "seed1"):
        found = {run.folder.relative_to(runs).parts[1]: run for run in find_runs(runs, tmp_path / "results")}
    assert {cell: run.state for cell, run in found.items()} == {
        "ln": "finished",
        "pn,norm.group_scaling=false": "published",
        "bn": "stopped",
        "pn": "running",
        "none": "diverged",
        "rms": "damaged",
    }
    assert (found["bn"].updates, found["bn"].of) == (200, 5160)
    assert (found["ln"].updates, found["ln"].metric, found["ln"].score) == (1200, "bleu", 35.25)
    assert found["ln"].when.isoformat() == "2026-01-01T00:00:00+00:00"
    assert {run.state for run in find_runs(runs, tmp_path / "nowhere")} & {"published", "diverged"} == set()


@pytest.mark.parametrize("score", [None, 35.0])
@pytest.mark.parametrize("content", ["[1, 2]", "3", "", "[" * 100_000, "a: [", "experiment: [b"])
def test_a_damaged_config_leaves_a_run_its_name(tmp_path, score, content):
    run = add(tmp_path / "runs", "pn,norm.warmup=7", seed=12, score=score)
    (run / "config.yaml").write_text(content, encoding="utf-8")
    (found,) = find_runs(tmp_path / "runs", tmp_path)
    assert (found.state, found.experiment, found.cell, found.norm, found.seed, found.score) == (
        *("damaged", "multi30k", "pn,norm.warmup=7", "pn", 12, None),
    )


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "3", "{}", "[]"])
def test_a_damaged_record_is_found_by_the_name_of_its_run(tmp_path, monkeypatch, normplugins, content):
    monkeypatch.chdir(tmp_path)
    (add(tmp_path / "runs", "ln", score=35.0) / "record.json").write_text(content, encoding="utf-8")
    status, said, errors = normplugins("list", "multi30k/ln/", "--json")
    assert (status, errors) == (0, "")
    assert [run["state"] for run in json.loads(said)] == ["damaged"]


def test_an_edited_record_is_damaged_and_its_score_is_not_shown(tmp_path):
    path = add(tmp_path / "runs", "ln") / "record.json"
    write_json(path, record("multi30k", "ln", 1, {"bleu": 35.0}))
    assert [(run.state, run.score) for run in find_runs(tmp_path / "runs", tmp_path)] == [("finished", 35.0)]
    path.write_text(path.read_text(encoding="utf-8").replace("35.0", "36.0"), encoding="utf-8")
    assert [(run.state, run.score) for run in find_runs(tmp_path / "runs", tmp_path)] == [("damaged", None)]


def test_a_damaged_run_outside_the_usual_folders_has_no_name(tmp_path):
    run = add(tmp_path / "runs", "ln").rename(tmp_path / "run")
    (run / "config.yaml").write_text("[]", encoding="utf-8")
    (found,) = find_runs(run, tmp_path)
    assert (found.state, found.experiment, found.cell, found.seed) == ("damaged", "", "", 0)


def test_a_file_with_two_names_takes_space_once(runs):
    run = runs / "multi30k" / "bn" / "seed1"
    (run / "checkpoint1.pt").write_bytes(bytes(1_000_000))
    os.link(run / "checkpoint1.pt", run / "checkpoint_last.pt")
    (found,) = find_runs(run, runs)
    assert 1_000_000 < found.bytes < 1_010_000


def test_filters_and_json(runs, normplugins, accepted, refused):
    def cells(*arguments):
        said = accepted("list", "--json", *arguments)
        return [(run["cell"], run["seed"]) for run in json.loads(said)]

    assert len(cells()) == 6
    assert cells("/pn[,/]") == [("pn", 1), ("pn,norm.group_scaling=false", 2)]
    assert cells("--state", "published") == cells("seed2") == cells("group_*=false") == cells("/pn,")
    assert cells("/ln/", "/bn/") == [("bn", 1), ("ln", 1)]
    assert "none of the 6 runs in runs matches" in normplugins("list", "nothing")[1]
    assert "--state dead: the states are running, stopped" in refused("list", "--state", "dead")
    assert "there is no folder nowhere" in refused("list", "--runs", "nowhere")


@pytest.mark.parametrize("width", [None, 80, 60])
def test_every_number_is_whole_and_fits(width, runs, tmp_path):
    text = run_list(find_runs(runs, tmp_path / "results"), width)
    assert width is None or max(map(len, text.splitlines())) <= width
    for row in (r"ln +1 +finished +1,200 +35\.25", r"bn +1 +stopped +200/5,160", r"published +1,200 +36\.50"):
        assert re.search(row, text), text
    assert text.replace("\n", " ").endswith("2 stopped, 1 finished, 1 published, 1 diverged, 1 damaged")


def test_scores_have_the_names_of_the_tables(tmp_path):
    put_run(tmp_path / "runs", record("wmt14", "ln", metrics={"bleu_compound": 27.25}))
    text = run_list(find_runs(tmp_path / "runs", tmp_path), None)
    assert "BLEU, compounds split" in text
    assert "27.25" in text


def test_runs_are_listed_without_torch(tmp_path):
    for seed in range(50):
        add(tmp_path / "runs", "ln", seed, score=35.0)
    script = (
        "import sys; from normplugins.cli import main; main(['list']);"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "50 runs" in done.stdout) == (0, True), done.stderr


def test_a_record_replaces_the_file_of_an_earlier_run_that_diverged(tmp_path):
    paths = [tmp_path / name for name in ("seed1.json", "seed1.diverged.json", "seed2.diverged.json")]
    assert split_diverged(paths) == ([paths[0]], [paths[2]])
