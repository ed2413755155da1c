"""Runs of several processes: as exact as one process, and resumable after a process is lost, with every launcher."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from normplugins.training.history import saved_history
from tests.helpers.runs import (
    PATIENCE,
    REPOSITORY,
    TINY_LM,
    Command,
    Point,
    command,
    differences,
    load,
    outcome,
    succeed,
    tiny_run,
    without_gloo,
)

TWO = "hardware.processes=2"
PLAIN = ["model.dropout=0", "model.attention_dropout=0", "model.activation_dropout=0"]
tiny = partial(tiny_run, norm="bn")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def pair(arguments, folder, at=None, of_rank=0, second=None, **env):
    """Start two processes as a launcher does; one rank gets ``at``, and rank 1 the arguments ``second``."""
    port, started = free_port(), []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        output = folder / f"output{len(list(folder.glob('output*')))}"
        output.touch()
        env |= {name: str(value) for name, value in place.items()}
        own = second if rank and second else arguments
        started.append(Command(own, folder, output, at if rank == of_rank else None, dict(env)))
    return started


def both(*arguments, **options):
    """Return the exit statuses and outputs of the two processes of ``pair``."""
    started = pair(*arguments, **options)
    return tuple(each.wait() for each in started), tuple(each.text for each in started)


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def until(holds):
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children(pid):
    """Return the ids of the ranks that the command with this id started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def gone(pid):
    return not Path(f"/proc/{pid}").exists() or state_of(pid) == "Z"


@pytest.fixture(scope="module")
def uninterrupted(trained, tmp_path_factory):
    """Folder and output of ``normplugins run demo norm=bn``, tiny, in two processes that are never interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    status, texts = both(tiny(trained), folder)
    assert status == (0, 0), texts
    assert texts[1] == ""
    return folder, texts[0]


@pytest.mark.slow
def test_statistics_of_the_processes_are_compared_at_the_end_of_each_epoch(uninterrupted):
    folder, said = uninterrupted
    lines = re.findall(
        r"epoch +(\d)  statistics of 2 processes differ from the first's by ([\d.]+)% in running_mean and "
        r"([\d.]+)% in running_var \(means over norms\), most in (encoder\.\S+\.running_(?:mean|var)): ([\d.]+)%",
        said,
    )
    curve = saved_history(folder / "run").valid
    assert [int(epoch) for epoch, *_ in lines] == [point["epoch"] for point in curve]
    for (_, *means, _, most), point in zip(lines, curve, strict=True):
        found = [point[f"drift_{name}"] for name in ("running_mean", "running_var")]
        assert 0 < max(found) <= point["most_drift"]
        assert [*means, most] == [f"{100 * value:.1f}" for value in (*found, point["most_drift"])]
    first, second = load(folder / "run" / "checkpoint_last.pt")["extra_state"]["statistics"]
    saved = load(folder / "run" / "checkpoint_last.pt")["model"]
    assert all(torch.equal(saved[name], value) for name, value in first.items())
    assert not any(torch.equal(second[name], value) for name, value in first.items())


@pytest.mark.slow
def test_a_run_resumes_after_any_end_and_with_any_launcher(trained, uninterrupted, tmp_path):
    """Each call resumes from where the call before was ended."""
    directory = tmp_path / "run"
    lost = r"normplugins: rank 1 of 2 has lost the other ranks: .* The same command resumes from the last checkpoint\n"

    def updates_saved():
        assert not list(directory.glob("*.json.tmp"))
        return saved_history(directory).updates

    # rank zero is killed while it saves
    status, texts = both(tiny(trained), tmp_path, Point(r"os\.rename \S+checkpoint_last", 3))
    assert status == (-signal.SIGKILL, 1)
    assert re.fullmatch(lost, texts[1])
    assert updates_saved() == 2

    # rank zero stops answering while it loads the checkpoint, after it has read the history in it
    first, second = pair(
        tiny(trained, "hardware.timeout_seconds=5"), tmp_path, Point(r"open \S+checkpoint_last\.pt ", 2, signal.SIGSTOP)
    )
    until(lambda: state_of(first.process.pid) == "T")
    addresses = listening(first.process.pid)
    assert second.wait() == 1
    assert re.fullmatch(lost, second.text)
    first.process.kill()
    first.wait()
    assert updates_saved() == 2

    # of the ranks that the command started itself, one is killed; then the command is ended in different ways
    for sent, to_rank, status, line in (
        (signal.SIGKILL, True, 1, "normplugins: rank 1 of 2 was ended by SIGKILL, .* resumes from the last checkpoint"),
        (signal.SIGINT, False, 130, "normplugins: interrupted; the same command resumes where it stopped"),
        (signal.SIGKILL, False, -signal.SIGKILL, None),
    ):
        before = updates_saved()
        run = Command(tiny(trained, TWO), tmp_path, tmp_path / f"output-{sent.name}-{to_rank}")
        while not run.output.exists() or not re.search(r"resuming from update", run.text):
            assert run.process.is_alive(), run.text
            time.sleep(0.01)
        started = children(run.process.pid)
        assert len(started) == 2
        addresses += [address for pid in (run.process.pid, *started) for address in listening(pid)]
        os.kill(started[1] if to_rank else run.process.pid, sent)
        assert run.wait() == status, run.text
        if line:
            assert re.fullmatch(line, run.text.splitlines()[-1])
            assert "Traceback" not in run.text
        until(lambda started=started: all(gone(pid) for pid in started))
        assert 24 > updates_saved() >= before
    assert len(addresses) >= 4
    assert set(addresses) == {"127.0.0.1"}, "whether a launcher started the ranks or the command itself"

    # torchrun, started twice on this machine as on two machines, completes the run
    where = ["--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    nodes = [
        subprocess.Popen(
            [*torchrun, "--node-rank", str(rank), *where, "-m", "normplugins", *tiny(trained)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [without_gloo(node.communicate(timeout=PATIENCE)[0]) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "resuming from update" in said[0]
    assert said[1] == ""
    folder, _ = uninterrupted
    assert differences(outcome(folder, folder / "run"), outcome(tmp_path, directory)) == []
    one, other = (load(path / "run" / "checkpoint_last.pt")["extra_state"] for path in (folder, tmp_path))
    assert differences(one["statistics"], other["statistics"]) == []

    # a complete run is not repeated, and other settings are refused; either way both ranks end
    assert both(tiny(trained), tmp_path)[0] == (0, 0)
    status, texts = both(tiny(trained, "model.dropout=0.5"), tmp_path)
    assert status == (1, 1)
    assert "model.dropout: 0.1 there, 0.5 now" in texts[0]
    assert texts[1].count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("others", "words"),
    [
        (["seed=2"], r"the ranks differ: common.seed is 1 in rank 0 and 2 in rank 1; .*seed is 1"),
        (["evaluate.beam=0"], r"rank 1 refused: evaluate.beam is 0"),
        (["optimization.lrr=1"], r"rank 1 refused: unknown key"),
    ],
)
def test_a_rank_with_other_settings_ends_all_ranks_before_anything_is_written(trained, tmp_path, others, words):
    status, texts = both(tiny(trained), tmp_path, second=tiny(trained, *others))
    assert status == (1, 1)
    assert re.search(f"normplugins: {words}" if "refused" in words else words, texts[0])
    if "refused" not in words:
        assert re.search(words, texts[1])
    assert [text.count("\n") for text in texts] == [1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output0", "output1"]


@pytest.mark.slow
def test_delayed_ranks_save_at_the_same_updates(trained, tmp_path):
    """Rank 1 begins to train two seconds after rank zero, and the time for a checkpoint is half a second."""
    short = ["optimization.max_update=12", "evaluate.translate=false", "evaluate.average=null"]
    soon = tiny(trained, "train.checkpoint_minutes=0.008", "hardware.timeout_seconds=20", *short)
    first, second = pair(soon, tmp_path, Point(r"open \S+dict\.\w+\.txt", 1, signal.SIGSTOP), of_rank=1)
    until(lambda: state_of(second.process.pid) == "T")
    time.sleep(2)
    os.kill(second.process.pid, signal.SIGCONT)
    assert (first.wait(), second.wait()) == (0, 0), (first.text, second.text)


def listening(pid):
    """Return the addresses at which a process accepts connections over TCP."""
    sockets = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the process may close a file at the same time
            sockets.add(str(path.readlink()))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    found = [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    return [socket.inet_ntoa(bytes.fromhex(address)[::-1]) if len(address) == 8 else address for address in found]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_if_updates_keep_their_size(trained, tmp_path):
    """One process, killed at update 4, then two, killed at update 8, then one: as one process that is never killed.

    An epoch has 13 batches, so that one of the two processes has an empty batch in its last update.
    """
    overrides = [*PLAIN, "train.batches_per_update=2", "evaluate.translate=false", "optimizer.adam_eps=1e-4"]
    overrides += ["dataset.max_tokens=null", "dataset.batch_size=24", "optimization.max_update=12"]
    arguments = tiny(trained, *overrides, norm="ln")
    ends = []
    for name in ("whole", "broken"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "broken":
            saved = r"os\.rename \S+checkpoint_last\.pt\.tmp"
            assert command(arguments, folder, Point(saved, 5))[0] == -signal.SIGKILL
            status, texts = both(arguments, folder, Point(saved, 5))
            assert status == (-signal.SIGKILL, 1), texts
            assert saved_history(folder / "run").updates == 8
        succeed(arguments, folder)
        ends.append((load(folder / "run" / "checkpoint_last.pt")["model"], saved_history(folder / "run")))
    (one, history), (two, other) = ends
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5)
    assert (history.updates, history.epoch, history.words) == (other.updates, other.epoch, other.words)
    for curve in ("train", "valid"):
        for here, there in zip(getattr(history, curve), getattr(other, curve), strict=True):
            assert there["loss"] == pytest.approx(here["loss"], rel=1e-5)


@pytest.mark.slow
def test_the_other_rank_ends_if_rank_zero_is_killed_before_training(trained, tmp_path):
    status, texts = both(tiny(trained), tmp_path, Point(r"os\.rename \S+provenance"))
    assert status == (-signal.SIGKILL, 1)
    assert texts[1].endswith("normplugins: rank 1 of 2: rank zero has ended\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["norm=pn", "norm.sync=batch"],
        [
            *["norm=pn_alg2", "norm.sync=deferred", "architecture=transformer", "model.attention_heads=2"],
            *["criterion=adaptive_loss", "model.adaptive_softmax_cutoff='5,9'", "model.adaptive_input=true"],
            *["model.normalize_before=true", "distributed_training.ddp_backend=legacy_ddp"],
        ],
    ],
    ids=["tensor, full softmax", "transformer, adaptive softmax"],
)
def test_language_models_with_synchronized_statistics(overrides, made_up_text, tmp_path):
    arguments = ["run", "ptb", "tracking=none", "run_dir=run", *TINY_LM, "optimization.max_update=9", *overrides]
    status, (said, other) = both(arguments, tmp_path, NORMPLUGINS_MIRROR=str(made_up_text))
    assert status == (0, 0), said
    assert "statistics of 2 processes are the same" in said
    assert other.splitlines()[1:] == []  # each rank warns that the unmasked model sees the future, and says no more
    assert {point["most_drift"] for point in saved_history(tmp_path / "run").valid} == {0}


@pytest.mark.slow
def test_the_error_of_a_launched_process_is_one_line(trained, tmp_path):
    """It is the error that one rank raised; the other ranks print nothing."""
    status, said = command(tiny(trained, TWO, "norm.sync=batch", "optimization.lr=[1e30]"), tmp_path)
    assert status == 1
    errors = [line for line in said.splitlines() if line.startswith("normplugins: ")]
    assert len(errors) == 1, said
    assert re.fullmatch(r"normplugins: update \d+: .*layers\.0\.\S+ is not finite\. .*", errors[0])
    assert "Traceback" not in said
