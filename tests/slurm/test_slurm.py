"""Cells as jobs of a real Slurm on this machine: submitted, killed, requeued, and resumed to the same result."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.runs import PATIENCE, REPOSITORY, TINY, command, differences, outcome

HERE = Path(__file__).parent
pytestmark = [pytest.mark.slurm, pytest.mark.slow]
# Seconds of training with a checkpoint after each update: a job is hit in the middle of it.
CELL = [*TINY, "tracking=none", "optimization.max_update=200"]
JOBS = ["hardware=slurm", "hardware.slurm.gpus=0", "hardware.slurm.cpus=1"]
OWN_PLACES = ["run_dir=${norm.name}/run", "results_dir=${norm.name}/results"]


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
    """The process id of the ``normplugins run`` that a job started in this folder."""
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


def until(what: str, holds: Callable[[], bool]) -> None:
    """Ask the daemons, or the file system, until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not after {PATIENCE} s"
        time.sleep(0.1)


def state(job: str) -> str:
    """Such as ``RUNNING 0:0``: the job's state, and its exit status and signal."""
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return " ".join(re.findall(r"(?:JobState|ExitCode)=(\S+)", shown))


def submit(folder: Path, *overrides: str) -> dict[str, tuple[str, Path]]:
    """Submit cells of the demo; each one's job and log by its norm."""
    status, said = command(
        ["run", "demo", *CELL, *JOBS, *OWN_PLACES, *overrides],
        folder,
        PYTHONPATH=str(REPOSITORY),
        SLURM_CONF=os.environ["SLURM_CONF"],
    )
    assert status == 0, said
    lines = re.findall(r"^job (\S+): .* in (\S+)/run, log (\S+)$", said, flags=re.MULTILINE)
    return {norm: (job, folder / log) for job, norm, log in lines}


def has_begun(folder: Path, norm: str) -> Callable[[], bool]:
    return (folder / norm / "run" / "checkpoint_last.pt").exists


def went_on_from(log: Path) -> list[int]:
    return [int(update) for update in re.findall(r"resuming from update (\d+)", log.read_text())]


def test_two_cells_of_which_one_is_killed_and_requeued(slurm: None, tmp_path: Path) -> None:
    unbroken, cluster = tmp_path / "unbroken", tmp_path / "cluster"
    unbroken.mkdir()
    cluster.mkdir()
    jobs = submit(cluster, "-m", "norm=ln,pn")
    assert sorted(jobs) == ["ln", "pn"]
    (kept, kept_log), (killed, killed_log) = jobs["ln"], jobs["pn"]

    until("the first checkpoint", has_begun(cluster, "pn"))
    os.kill(run_of(cluster, "norm=pn"), signal.SIGKILL)
    until("the killed job's end", lambda: state(killed).startswith("FAILED"))
    assert state(killed) != "FAILED 0:0"
    assert not (cluster / "pn" / "run" / "record.json").exists()
    subprocess.run(["scontrol", "requeue", killed], check=True)

    status, said = command(["run", "demo", "norm=pn", *CELL, *OWN_PLACES], unbroken)
    assert status == 0, said
    for job in (kept, killed):
        until(f"job {job} completed", lambda job=job: state(job) == "COMPLETED 0:0")
    assert (cluster / "ln" / "results" / "runs" / "demo").is_dir()
    assert went_on_from(kept_log) == []
    (update,) = went_on_from(killed_log)
    assert 0 < update < 200
    assert not differences(outcome(unbroken / "pn", unbroken / "pn/run"), outcome(cluster / "pn", cluster / "pn/run"))


def test_at_the_time_limit_a_job_goes_back_into_the_queue(slurm: None, tmp_path: Path) -> None:
    ((job, log),) = submit(tmp_path, "norm=bn", "optimization.max_update=100").values()
    until("the first checkpoint", has_begun(tmp_path, "bn"))
    subprocess.run(["scancel", "--batch", "--signal=USR2", job], check=True)  # as Slurm does before the limit
    until("the job's end", lambda: state(job) == "COMPLETED 0:0")
    assert len(went_on_from(log)) == 1
    assert (tmp_path / "bn" / "run" / "record.json").exists()


def test_one_run_on_two_nodes(slurm: None, tmp_path: Path) -> None:
    overrides = ["norm=pn", *CELL, *OWN_PLACES, "optimization.max_update=100"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # torchrun lies beside this Python
    submitted = subprocess.run(
        ["sbatch", "--parsable", REPOSITORY / "scripts/slurm/multi_node.sbatch", "demo", *overrides],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    job, log = submitted.stdout.strip(), tmp_path / f"slurm-{submitted.stdout.strip()}.log"
    until("the first checkpoint", has_begun(tmp_path, "pn"))
    subprocess.run(["scancel", "--batch", "--signal=USR2", job], check=True)
    until("the job's end", lambda: state(job) == "COMPLETED 0:0")
    assert "2 processes" in log.read_text()
    assert len(went_on_from(log)) == 1
    assert (tmp_path / "pn" / "run" / "record.json").exists()


def test_a_failed_run_is_a_failed_job(slurm: None, tmp_path: Path) -> None:
    ((job, log),) = submit(tmp_path, "norm=ln", "optimization.lr=1e30").values()
    until("the job's end", lambda: state(job).split()[0] in ("COMPLETED", "FAILED"))
    assert state(job) == "FAILED 1:0"
    assert re.search(r"^normplugins: update \d+: .* not finite", log.read_text(), flags=re.MULTILINE)
