"""Cells as jobs of a real Slurm on this machine: submitted, killed, requeued, and resumed with the same result."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.runs import OTHER_CONFIG, PATIENCE, REPOSITORY, TINY, Trained, command, differences, outcome, succeed

HERE = Path(__file__).parent
pytestmark = [pytest.mark.slurm, pytest.mark.slow]
# Training takes seconds and saves a checkpoint after each update, so a signal reaches a job while it trains.
CELL = [*TINY, "tracking=none", "optimization.max_update=100"]
UNSCORED = ["evaluate.translate=false", "evaluate.average=null"]
JOBS = ["hardware=slurm", "hardware.slurm.gpus=0", "hardware.slurm.cpus=1"]
OWN_PLACES = ["run_dir=${norm.name}/run"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Slurm of two nodes, for this module."""
    needed = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
    if missing := [name for name in needed if shutil.which(name) is None]:
        pytest.skip(f"no {', '.join(missing)} here (Debian: apt install slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("only root can start Slurm's daemons for several users' jobs")
    folder = tmp_path_factory.mktemp("slurm")
    before = os.environ.get("SLURM_CONF")
    try:
        started = subprocess.run([HERE / "setup.sh", folder], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if started.returncode != 0:
            pytest.skip(f"Slurm does not start here: {started.stderr.strip()}")
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        yield
    finally:
        os.environ.pop("SLURM_CONF", None) if before is None else os.environ.update(SLURM_CONF=before)
        subprocess.run([HERE / "stop.sh", folder], check=False)


def run_of(folder: Path, override: str) -> int:
    """Return the process id of the ``normplugins run`` that a job started in this folder."""
    (pid,) = [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if _reads(process / "cwd") == str(folder) and f"\0{override}\0".encode() in (process / "cmdline").read_bytes()
    ]
    return pid


def _reads(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def wait_until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not after {PATIENCE} s"
        time.sleep(0.1)


def state(job: str) -> str:
    """Return the job's state with its exit status and signal, such as ``RUNNING 0:0``."""
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return " ".join(re.findall(r"(?:JobState|ExitCode)=(\S+)", shown))


def wait_for_end(job: str, expected: str) -> None:
    wait_until(f"the end of job {job}", lambda: state(job).split()[0] in ("COMPLETED", "FAILED"))
    assert state(job) == expected


def resumed_from(log: Path) -> list[int]:
    return [int(update) for update in re.findall(r"resuming from update (\d+)", log.read_text())]


def test_an_array_with_a_killed_a_requeued_and_a_failed_job(slurm: None, trained: Trained, tmp_path: Path) -> None:
    unbroken, cluster = tmp_path / "unbroken", tmp_path / "cluster"
    unbroken.mkdir()
    (cluster / "bn" / "run").mkdir(parents=True)
    (cluster / "bn" / "run" / "config.yaml").write_text(OTHER_CONFIG)
    (cluster / "bn" / "run" / "checkpoint_last.pt").touch()
    cell = [*CELL, f"data_dir={trained.data_dir}"]
    arguments = ["run", "demo", "-m", "norm=ln,pn,bn", *cell, *JOBS, *OWN_PLACES]
    said = succeed(arguments, cluster, PYTHONPATH=str(REPOSITORY), SLURM_CONF=os.environ["SLURM_CONF"])
    jobs = {
        norm: (job, cluster / log)
        for job, norm, log in re.findall(r"^job (\S+): .* in (\S+)/run, log (\S+)$", said, flags=re.MULTILINE)
    }
    assert sorted(jobs) == ["bn", "ln", "pn"]
    again = [item.replace("norm=ln,pn,bn", "norm=ln,pn") for item in arguments]
    status, said = command(again, cluster, PYTHONPATH=str(REPOSITORY), SLURM_CONF=os.environ["SLURM_CONF"])
    assert (status, said.count("already queued or running, as job")) == (0, 2), said
    (requeued, requeued_log), (killed, killed_log), (failed, failed_log) = (jobs[norm] for norm in ("ln", "pn", "bn"))

    wait_until("the first checkpoint of ln", (cluster / "ln/run/checkpoint_last.pt").exists)
    subprocess.run(["scancel", "--batch", "--signal=USR2", requeued], check=True)  # as Slurm does before the time limit
    wait_until("the first checkpoint of pn", (cluster / "pn/run/checkpoint_last.pt").exists)
    os.kill(run_of(cluster, "norm=pn"), signal.SIGKILL)
    wait_until("the end of the killed job", lambda: state(killed).startswith("FAILED"))
    assert state(killed) != "FAILED 0:0"
    assert not (cluster / "pn/run/record.json").exists()
    subprocess.run(["scontrol", "requeue", killed], check=True)

    succeed(["run", "demo", "norm=pn", *cell, *OWN_PLACES], unbroken)
    wait_for_end(failed, "FAILED 1:0")
    assert re.search(r"^normplugins: .* holds a run with other settings", failed_log.read_text(), flags=re.MULTILINE)
    for job, log in ((killed, killed_log), (requeued, requeued_log)):
        wait_until(f"the end of job {job}", lambda job=job: state(job) == "COMPLETED 0:0")
        (update,) = resumed_from(log)
        assert 0 < update < 100
    assert (cluster / "ln/run/record.json").exists()
    assert not differences(outcome(unbroken / "pn", unbroken / "pn/run"), outcome(cluster / "pn", cluster / "pn/run"))


def test_one_run_on_two_nodes(slurm: None, trained: Trained, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # torchrun is in the folder of this Python
    cell = [*CELL, f"data_dir={trained.data_dir}", *UNSCORED, *OWN_PLACES]
    submitted = subprocess.run(
        ["sbatch", "--parsable", REPOSITORY / "scripts/slurm/multi_node.sbatch", "demo", "norm=pn", *cell],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    job, log = submitted.stdout.strip(), tmp_path / f"slurm-{submitted.stdout.strip()}.log"
    wait_until("the first checkpoint", (tmp_path / "pn/run/checkpoint_last.pt").exists)
    subprocess.run(["scancel", "--batch", "--signal=USR2", job], check=True)
    wait_until("the job's end", lambda: state(job) == "COMPLETED 0:0")
    assert "2 processes" in log.read_text()
    assert len(resumed_from(log)) == 1
    assert (tmp_path / "pn/run/record.json").exists()


def test_one_run_as_two_tasks_of_srun(slurm: None, trained: Trained, tmp_path: Path) -> None:
    cell = [*CELL, f"data_dir={trained.data_dir}", *UNSCORED, "optimization.max_update=5", *OWN_PLACES]
    run = [sys.executable, "-m", "normplugins", "run", "demo", "norm=pn", *cell]
    done = subprocess.run(
        ["srun", "--nodes=1", "--ntasks=2", *run],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "MASTER_ADDR": socket.gethostname(), "MASTER_PORT": "29517"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "CPU with 2 processes" in done.stdout
    assert done.stdout.count("recorded in") == 1
