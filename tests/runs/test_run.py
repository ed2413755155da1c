"""One run: killed and resumed, repeated, refused, recorded."""

import re
import shutil
import signal
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from normplugins.training import checkpoints
from normplugins.training.history import saved_history
from tests.helpers.runs import (
    PATIENCE,
    REPOSITORY,
    TINY,
    Command,
    Point,
    command,
    differences,
    files,
    full_disk,
    load,
    outcome,
    tiny_run,
    whole_and_broken,
    write_malicious,
)

# The points at which a run is killed, in this order. Each call resumes what the one before left.
KILLS = [
    ("before a checkpoint within an epoch is renamed", Point(r"os\.rename \S+checkpoint_last\.pt\.tmp", 3)),
    ("epoch trained and validated, not saved", Point(r"os\.rename \S+checkpoint1\.pt\.tmp")),
    ("epoch saved, not linked as the best", Point(r"os\.link \S+checkpoint1\.pt ")),
    ("epoch linked as the best, not as the last", Point(r"os\.link \S+checkpoint1\.pt \S+checkpoint_last")),
    ("a checkpoint partly written", Point(r"open \S+checkpoint_last\.pt\.tmp", 2)),
    ("trained, not averaged", Point(r"os\.rename \S+checkpoint_averaged\.pt\.tmp")),
    ("averaged, not translated", Point(r"open \S*test\.hypotheses")),
    ("one checkpoint scored, the next one not", Point(r"open \S*test\.last\.hypotheses")),
    ("the next one translated, not kept", Point(r"os\.rename \S+seed1\.last\.tsv\.gz\.tmp")),
    ("translated, not recorded", Point(r"os\.rename \S+record\.json\.tmp")),
]

# The files in the folder of a run that has saved no checkpoint yet.
BEGUN = {"config.yaml", "lock", "provenance.json", "train.log"}


@pytest.mark.slow
def test_a_run_killed_at_any_point_ends_with_the_same_result(trained, tmp_path):
    arguments, directory = tiny_run(trained), tmp_path / "run"
    first = Command(arguments, tmp_path, tmp_path / "first")
    while not first.output.exists() or "update      3/" not in first.text:
        assert first.process.is_alive(), first.text
        time.sleep(0.005)
    first.process.kill()
    assert first.wait() == -signal.SIGKILL
    left = {}
    for where, point in KILLS:
        status, text = command(arguments, tmp_path, point)
        assert status == -signal.SIGKILL, f"not killed ({where}): {text}"
        left[where] = files(directory)
        if where == "trained, not averaged":
            assert saved_history(directory).updates == 24
    assert not (directory / "record.json").exists()
    status, text = command(arguments, tmp_path)
    assert not (tmp_path / "results").exists()
    assert status == 0, text
    assert differences(outcome(trained.folder, trained.directory), outcome(tmp_path, directory)) == []
    # neither finished training nor a finished translation was repeated
    saved = re.compile(r"checkpoint(_last|_best|\d+)\.pt")
    finished = {name: at for name, at in left["trained, not averaged"].items() if saved.fullmatch(name)}
    assert len(finished) == 5
    finished["test.hypotheses"] = left["one checkpoint scored, the next one not"]["test.hypotheses"]
    assert finished.items() <= files(directory).items()


@pytest.mark.slow
def test_statistics_of_whole_updates_survive_a_kill(trained, normplugins, tmp_path, monkeypatch):
    """With two batches per update, no statistics may be pending when a checkpoint is saved."""
    short = ["optimization.update_freq=[2]", "optimization.max_update=6", "evaluate.max_length_b=2"]
    arguments = tiny_run(trained, "norm.per_update=true", *short)
    whole, broken = whole_and_broken(arguments, tmp_path, normplugins, monkeypatch)
    assert differences(whole, broken) == []
    assert {value.item() for name, value in whole["model"].items() if name.endswith("num_updates")} == {6}


@pytest.mark.slow
def test_the_last_epoch_of_a_run_ended_by_patience_is_not_averaged(trained, normplugins, tmp_path, monkeypatch):
    """As in the released loop, also if the run is killed before the last checkpoint records that it has ended."""
    nothing_learned = ["optimization.lr=[0]", "lr_scheduler.warmup_init_lr=0", "optimization.stop_min_lr=-1"]
    ending = ["checkpoint.patience=3", "optimization.max_update=0", "train.checkpoint_minutes=5"]
    arguments = tiny_run(trained, *nothing_learned, *ending, "evaluate.translate=false", norm="ln")
    whole, broken = whole_and_broken(arguments, tmp_path, normplugins, monkeypatch)
    assert differences(whole, broken) == []
    history, ((_, extra_state),) = whole["history"], whole["averaged"]
    assert (history["stopped_by"], history["epoch"], history["epochs_without_progress"]) == ("patience", 4, 3)
    assert extra_state["averaged_from"] == ["checkpoint1.pt", "checkpoint2.pt", "checkpoint3.pt"]
    assert not list(tmp_path.rglob("checkpoint4.pt"))


@pytest.mark.slow
def test_a_run_that_trains_again_does_not_score_its_old_average(trained, accepted, tmp_path, monkeypatch):
    shutil.copytree(trained.directory, tmp_path / "run")
    old = tmp_path / "run" / checkpoints.AVERAGED
    state = checkpoints.load(old)
    state["model"] = {name: value + 1 if value.is_floating_point() else value for name, value in state["model"].items()}
    for path in (tmp_path / "run").glob("checkpoint*.pt"):
        path.unlink()
    checkpoints.write(state, old)
    (tmp_path / "run/record.json").unlink()
    monkeypatch.chdir(tmp_path)
    accepted(*tiny_run(trained))
    assert differences(outcome(trained.folder, trained.directory), outcome(tmp_path, tmp_path / "run")) == []


@pytest.mark.slow
def test_a_run_ends_when_its_rate_is_small_enough(trained, accepted, tmp_path, monkeypatch):
    ending = ["optimization.stop_min_lr=1", "checkpoint.patience=9", "optimization.max_update=0"]
    arguments = tiny_run(trained, *ending, "evaluate.translate=false", norm="ln")
    status, text = command(arguments, tmp_path, Point(r"os\.rename \S+checkpoint_averaged\.pt\.tmp"))
    assert status == -signal.SIGKILL, text
    monkeypatch.chdir(tmp_path)
    accepted(*arguments)
    history = outcome(tmp_path, tmp_path / "run")["history"]
    assert (history["stopped_by"], history["epoch"]) == ("stop_min_lr", 1)


def test_the_comparison_detects_a_bit_of_one_tensor(trained):
    one, other = (outcome(trained.folder, trained.directory) for _ in range(2))
    assert differences(one, other) == []
    for place in ("model", "averaged"):
        tensors = other[place] if place == "model" else other[place][0][0]
        name = next(name for name in tensors if name.endswith("norm.weight"))
        tensors[name].view(torch.int32)[0] ^= 1
        assert [each for each in differences(one, other) if each.startswith(f"/{place}/")]


def test_a_complete_run_is_not_repeated(trained, accepted, at_trained):
    before = files(trained.folder)
    said = accepted("run", "demo", "norm=pn", "tracking=none", "run_dir=run", *TINY)
    assert "already complete" in said
    assert str(trained.record["metrics"]["bleu"]["signature"]) in said
    assert files(trained.folder) == before


@pytest.mark.slow
def test_a_second_run_in_a_folder_is_refused(trained, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = Command(
        tiny_run(trained), tmp_path, tmp_path / "output", Point(r"os\.rename \S+checkpoint_last", send=signal.SIGSTOP)
    )
    pid = first.process.pid
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert first.process.is_alive(), first.text
        time.sleep(0.01)
    try:
        line = refused(*tiny_run(trained))
        assert "another run" in line
        assert str(pid) in line
        assert line.endswith(" run")
    finally:
        first.process.kill()
        first.process.join(PATIENCE)
    assert not (tmp_path / "run" / "record.json").exists()


@pytest.mark.parametrize("rate", ["1e30", "1e39"])
def test_a_run_that_is_not_finite_names_layer_and_update(rate, trained, refused, tmp_path, monkeypatch):
    """1e39 is infinite in float32, so the weights become infinite too, and no checkpoint may contain them."""
    monkeypatch.chdir(tmp_path)
    line = refused(*tiny_run(trained, f"optimization.lr=[{rate}]"))
    assert re.match(r"normplugins: update \d+: (the output of )?(encoder|decoder)\.\S+ is not finite", line)
    assert "run/checkpoint_last.pt" in line
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*BEGUN, "checkpoint_last.pt"}
    state = load(tmp_path / "run" / "checkpoint_last.pt")
    assert all(torch.isfinite(value).all() for value in state["model"].values())
    history = saved_history(tmp_path / "run")
    assert history.updates >= 1
    assert f"(update {history.updates})" in line
    assert f"update {history.updates + 1}:" in line


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_refused(trained, refused, accepted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["optimization.max_update=4", "evaluate.max_length_b=5"]
    accepted(*tiny_run(trained, *short))
    before = files(tmp_path / "run")
    line = refused(*tiny_run(trained, *short, "model.dropout=0.5"))
    assert "model.dropout: 0.1 there, 0.5 now" in line
    assert "force=true" in line
    assert files(tmp_path / "run") == before
    # these settings do not change the result
    again = tiny_run(trained, *short, "hardware=auto", "train.checkpoint_minutes=7")
    assert "already complete" in accepted(*again)
    said = accepted(*tiny_run(trained, *short, "model.dropout=0.5", "force=true"))
    assert "already complete" not in said
    assert not before.items() & files(tmp_path / "run").items()


@pytest.mark.slow
def test_a_multirun_runs_every_combination_even_if_one_fails(trained, normplugins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = [*TINY, "optimization.max_update=2", "evaluate.translate=false", f"data_dir={trained.data_dir}"]
    name = "run_dir=runs/${norm.name}-${seed}"
    proof = tmp_path / "proof"
    write_malicious(tmp_path / "runs" / "ln-2" / "checkpoint_last.pt", proof)
    status, said, errors = normplugins("run", "demo", "-m", "norm=ln,pn", "seed=1,2", "tracking=none", name, *short)
    assert status == 1
    first, last = errors.splitlines()
    assert "runs/ln-2/checkpoint_last.pt was refused" in first
    assert last == "normplugins: 1 of 4 runs failed"
    assert not proof.exists()
    assert sorted(path.parent.name for path in tmp_path.glob("runs/*/record.json")) == ["ln-1", "pn-1", "pn-2"]
    assert re.findall(r"== (\d) of 4: demo (ln|pn)\S*-s(\d)", said) == [
        ("1", "ln", "1"),
        ("2", "ln", "2"),
        ("3", "pn", "1"),
        ("4", "pn", "2"),
    ]


def test_a_multirun_with_impossible_settings_runs_nothing(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "norm.group_scaling=true" in refused(
        "run", "demo", "-m", "norm=pn,ln", "norm.group_scaling=true", "tracking=none"
    )
    assert not list(tmp_path.iterdir())


def test_unwritable_folder_is_one_line(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert "file/run" in refused("run", "demo", "run_dir=file/run", *TINY)


def test_settings_that_cannot_work_are_refused_first(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search("norm.*groups", refused("run", "demo", "tracking=none", "norm=pn", "norm.groups=3"))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_refused(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "hardware=cpu" in refused("run", "demo", "hardware=gpu8")


def test_the_record_contains_everything_that_the_scores_depend_on(trained):
    record = trained.record
    assert (record["experiment"], record["norm"], record["seed"]) == ("demo", "pn", 1)
    assert record["variant"] == OmegaConf.load(trained.directory / "config.yaml").variant
    training = record["training"]
    assert (training["updates"], training["epochs"], training["stopped_by"]) == (24, 3, "max_update")
    assert training["averaged"] == ["checkpoint1.pt", "checkpoint2.pt", "checkpoint3.pt"]
    assert training["words_per_second"] > 0
    assert training["wall_seconds"] > 0
    assert training["parameters"] == sum(
        value.numel()
        for name, value in load(trained.directory / "checkpoint_last.pt")["model"].items()
        if not re.search(r"running_phi|ema_gz|num_updates|decoder.embed_tokens|output_projection", name)
    )
    digests = record["corpus"]["sha256"]
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests.values())
    assert {"tokenized/train.aa", "tokenized/reference.tokens.bb", "bin/dict.aa.txt"} <= digests.keys()
    assert not [key for key, value in record["config"].items() if "${" in str(value) or value == "???"]
    assert record["versions"]["torch"] == version("torch")
    assert {"python", "normplugins", "fairseq", "sacrebleu", "hydra-core"} <= record["versions"].keys()
    hardware = record["hardware"]
    assert (hardware["device"], hardware["threads"], hardware["gpus"]) == ("CPU", 1, [])
    assert hardware["memory_gb"] > 0
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", record["git_commit"]) if (REPOSITORY / ".git").exists() else True
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record["finished_at"])
    assert [point["update"] for point in record["curves"]["train"]] == list(range(3, 25, 3))
    assert [point["epoch"] for point in record["curves"]["valid"]] == [1, 2, 3]
    assert record["curves"]["train"][-1]["loss"] < record["curves"]["train"][0]["loss"]


@pytest.mark.slow
def test_a_full_disk_leaves_no_partial_file(trained, refused, accepted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with full_disk(40_000):
        line = refused(*tiny_run(trained))
    assert line.startswith("normplugins: could not write the checkpoint run/checkpoint_last.pt: ")
    assert {path.name for path in (tmp_path / "run").iterdir()} == BEGUN
    short = ["optimization.max_update=2", "evaluate.translate=false"]
    accepted(*tiny_run(trained, *short), "force=true")  # with space on the disk
