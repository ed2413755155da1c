"""``hardware=slurm`` on a machine without Slurm: the submitted script, and the run of a task. See tests/slurm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from normplugins.runs import folder
from normplugins.runs.compose import compose_config
from tests.helpers.runs import TINY

SLURM = ["hardware=slurm", "tracking=none"]


class Cluster:
    """Fake Slurm commands, the only ones on the path: sbatch stores the script and returns the job number 7."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.fake("sbatch", f"/bin/cat > {folder}/script; echo 7")
        self.fake("squeue", f"[ ! -e {folder}/queue ] || /bin/cat {folder}/queue")

    def fake(self, command: str, text: str) -> None:
        (self.bin / command).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / command).chmod(0o755)

    @property
    def script(self) -> str:
        return (self.folder / "script").read_text()

    def asked(self) -> dict[str, str]:
        return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", self.script, flags=re.MULTILINE))

    def run_task(self, number: int) -> str:
        """Run the script as a task of the array, and return what it printed."""
        environment = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_JOB_ID": "7", "PATH": str(self.bin)}
        done = subprocess.run(["/bin/bash"], input=self.script, env=environment, capture_output=True, text=True)
        return done.stdout

    def task(self, number: int) -> list[str]:
        """The arguments that a task gives to ``normplugins run``."""
        self.fake("python", "shift 3; printf '%s\\0' \"$@\"")
        return self.run_task(number).split("\0")[:-1]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    cluster = Cluster(tmp_path)
    monkeypatch.setenv("PATH", str(cluster.bin))
    monkeypatch.setattr(sys, "executable", str(cluster.bin / "python"))
    monkeypatch.chdir(tmp_path)
    return cluster


@pytest.mark.slow
def test_cells_are_tasks_of_one_array(cluster, normplugins):
    status, said, _ = normplugins("run", "demo", "-m", "norm=ln,pn", "seed=1,2", *SLURM)
    cells = [(norm, seed) for norm in ("ln", "pn") for seed in (1, 2)]
    assert status == 0
    assert said.splitlines()[:-1] == [
        f"job 7_{k}: demo {norm} seed {seed} in runs/demo/{norm}/seed{seed}, log runs/slurm/7_{k}.log"
        for k, (norm, seed) in enumerate(cells)
    ]
    asked = cluster.asked()
    assert (asked["array"], asked["output"]) == ("0-3", "runs/slurm/%A_%a.log")
    assert (asked["gpus-per-node"], asked["job-name"], asked["open-mode"]) == ("1", "demo", "append")
    assert "requeue" in asked
    assert asked["signal"].startswith("B:USR2@")
    assert (cluster.folder / "runs" / "slurm").is_dir()  # Slurm would not create it
    for k, (norm, seed) in enumerate(cells):
        overrides = ["hardware=gpus", "hardware.processes=1", f"norm={norm}", f"seed={seed}", "tracking=none"]
        assert cluster.task(k) == ["demo", *overrides]
        assert compose_config("demo", overrides).run_dir == f"runs/demo/{norm}/seed{seed}"


def test_settings_reach_slurm_and_do_not_change_the_cell(cluster, accepted):
    settings = ["partition=short", "time=30", "cpus=3", "mem=4G", "parallel=2", "gpus=0"]
    settings += ["setup=['true module x','export A=\"b c\"']", "options=['--mail-type=END']"]
    more = ["run_dir='my runs/$HOME'", *(f"hardware.slurm.{setting}" for setting in settings)]
    accepted("run", "demo", "norm=pn", *SLURM, *more)
    asked = cluster.asked()
    assert (asked["partition"], asked["time"], asked["cpus-per-task"], asked["mem"]) == ("short", "30", "3", "4G")
    assert (asked["mail-type"], asked["array"]) == ("END", "0-0%2")
    assert "gpus-per-node" not in asked
    assert '\ntrue module x\nexport A="b c"\n' in cluster.script
    overrides = cluster.task(0)[1:]
    assert overrides == ["hardware=cpu", "hardware.threads=3", "norm=pn", "tracking=none", "run_dir='my runs/$HOME'"]
    assert compose_config("demo", overrides).variant == "pn"


@pytest.mark.slow
def test_a_process_has_a_gpu_or_an_equal_share_of_the_cpus(cluster, accepted):
    accepted("run", "demo", "norm=pn", "hardware.processes=8", *SLURM)
    assert cluster.asked()["gpus-per-node"] == "8"
    assert cluster.task(0)[1:4] == ["hardware=gpus", "hardware.processes=8", "norm=pn"]
    on_a_cpu = ["hardware.slurm.gpus=0", "hardware.slurm.cpus=8", "hardware.processes=2"]
    accepted("run", "demo", *SLURM, *on_a_cpu)
    assert cluster.task(0)[1:3] == ["hardware=cpu", "hardware.threads=4"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["norm=ln,nope"], ["'nope'", "pn_alg2"]),
        (["norm=ln,pn", "evaluate.beam=2,0"], ["evaluate.beam is 0"]),
        (["hardware=slurm,cpu"], ["hardware=slurm", "all cells"]),
        (["hardware.slurm.time=1,2"], ["hardware.slurm", "all cells"]),
        (["hardware.slurm.partitio=x"], ["did you mean hardware.slurm.partition", "time"]),
        (["hardware=cpu", "hardware.slurm.partition=x"], ["hardware.slurm.partition", "hardware=slurm"]),
        (["hardware.slurm.gpus=8"], ["to use 8 GPUs, set hardware.processes"]),
    ],
)
def test_all_cells_are_checked_before_anything_is_submitted(cluster, refused, overrides, words):
    line = refused("run", "demo", "-m", *SLURM, *overrides)
    assert all(word in line for word in words), line
    assert not (cluster.folder / "script").exists()


def test_errors_of_slurm_are_one_line(cluster, refused):
    cluster.fake("sbatch", "echo sbatch: error: no such partition >&2; exit 1")
    assert "no such partition" in refused("run", "demo", *SLURM)
    (cluster.bin / "sbatch").unlink()
    assert "no sbatch" in refused("run", "demo", *SLURM)


def test_a_complete_cell_is_shown_and_not_submitted(cluster, at_trained, accepted):
    said = accepted("run", "demo", "norm=pn", "tracking=none", "run_dir=run", *TINY, "hardware=slurm")
    assert "already complete, in run" in said
    assert not (cluster.folder / "script").exists()


@pytest.mark.slow
def test_a_cell_that_is_queued_or_running_is_not_submitted_again(cluster, accepted, refused):
    accepted("run", "demo", "-m", "norm=ln,bn", *SLURM)
    (cluster.folder / "queue").write_text("3\n7_1\n")  # the job of norm=ln has ended
    cluster.fake("sbatch", f"/bin/cat > {cluster.folder}/script; echo 8")
    said = accepted("run", "demo", "-m", "norm=bn,ln", "force=true", *SLURM)
    assert said.splitlines()[:2] == [
        "demo bn seed 1: already queued or running, as job 7_1 (scancel 7_1 ends it)",
        "job 8_0: demo ln seed 1 in runs/demo/ln/seed1, log runs/slurm/8_0.log",
    ]
    (cluster.folder / "queue").write_text("7_1\n8_0\n")
    (cluster.folder / "script").unlink()
    assert accepted("run", "demo", "-m", "norm=ln,bn", *SLURM).count("already queued or running") == 2
    assert not (cluster.folder / "script").exists()
    cluster.fake("squeue", "echo squeue: error: no controller >&2; exit 1")
    assert "no controller" in refused("run", "demo", *SLURM)


def test_a_requeued_job_with_force_resumes(trained, at_trained, accepted, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(folder, "CLEARED_BY", "../cleared_by")
    (trained.folder / "cleared_by").write_text("7\n")
    said = accepted("run", "demo", "norm=pn", "tracking=none", "run_dir=run", *TINY, "force=true")
    assert "already complete" in said
    assert os.path.relpath(trained.result) in said


def test_the_time_limit_requeues_the_task(cluster, accepted):
    """The signal that Slurm sends before the time limit reaches the script during the run."""
    accepted("run", "demo", *SLURM)
    cluster.fake("scontrol", f'echo "$@" > {cluster.folder}/requeued')
    cluster.fake("python", "kill -USR2 $PPID; exec /bin/sleep 3 > /dev/null 2>&1")
    cluster.run_task(0)
    assert (cluster.folder / "requeued").read_text() == "requeue 7_0\n"
