"""``hardware=slurm``: what is asked of Slurm and what a job does, where there is no Slurm. tests/slurm has the rest."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore

from normplugins.cli import main
from normplugins.runs.compose import compose_config
from tests.helpers.runs import PATIENCE, TINY

helpers = pytest.importorskip("submitit.helpers", reason="pip install hydra-submitit-launcher")
pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install hydra-submitit-launcher")

SLURM = ["hardware=slurm", "tracking=none"]


class Cluster:
    """Stand-ins for Slurm's commands, alone on the path: sbatch takes what it is given, as job 7."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.says("sbatch", "echo Submitted batch job 7")
        self.says("srun", "")

    def says(self, command: str, script: str) -> None:
        (self.bin / command).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / command).chmod(0o755)

    @property
    def script(self) -> str:
        return (self.folder / "runs" / "slurm" / "7" / "7_submission.sh").read_text()

    def asked(self) -> dict[str, str]:
        return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", self.script, flags=re.MULTILINE))

    def cell(self, job: str) -> Any:
        return helpers.DelayedSubmission.load(self.folder / "runs" / "slurm" / job / f"{job}_submitted.pkl").function

    def nothing_submitted(self) -> bool:
        return not (self.folder / "runs").exists()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster(tmp_path)
    monkeypatch.setenv("PATH", str(cluster.bin))
    monkeypatch.chdir(tmp_path)
    return cluster


def test_a_table_is_one_array_with_a_job_for_each_cell(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "demo", "-m", "norm=ln,pn", "seed=1,2", *SLURM]) == 0
    said = capsys.readouterr().out.splitlines()
    cells = [(norm, seed) for norm in ("ln", "pn") for seed in (1, 2)]
    assert said[:-1] == [
        f"job 7_{k}: demo {norm} seed {seed} in runs/demo/{norm}/seed{seed}, log runs/slurm/7_{k}/7_{k}_0_log.out"
        for k, (norm, seed) in enumerate(cells)
    ]
    asked = cluster.asked()
    assert asked["array"].startswith("0-3")
    assert asked["output"] == str(cluster.folder / "runs/slurm/%A_%a/%A_%a_0_log.out")
    assert (asked["gpus-per-node"], asked["job-name"], asked["open-mode"]) == ("1", "demo", "append")
    assert "requeue" in asked
    assert asked["signal"].startswith("USR2@")
    for k, (norm, seed) in enumerate(cells):
        cell = cluster.cell(f"7_{k}")
        assert cell.overrides == [
            "hardware=gpus",
            "hardware.processes=1",
            f"norm={norm}",
            f"seed={seed}",
            "tracking=none",
        ]
        assert compose_config(cell.experiment, cell.overrides).run_dir == f"runs/demo/{norm}/seed{seed}"
        assert cell.checkpoint().function is cell  # requeued, the job does the same again


def test_settings_of_the_launcher_reach_slurm_and_name_no_cell(cluster: Cluster) -> None:
    settings = ["partition=short", "timeout_min=30", "cpus_per_task=3", "mem_gb=4", "setup=[module load x]"]
    more = "additional_parameters.mail-type=END"
    overrides = [f"hydra.launcher.{setting}" for setting in [*settings, "gpus_per_node=null"]]
    assert main(["run", "demo", "norm=pn", *SLURM, *overrides, f"+hydra.launcher.{more}"]) == 0
    asked = cluster.asked()
    assert (asked["partition"], asked["time"], asked["cpus-per-task"], asked["mem"]) == ("short", "30", "3", "4GB")
    assert asked["mail-type"] == "END"
    assert "requeue" in asked
    assert not {"gpus-per-node", "array"} & asked.keys()
    assert "\nmodule load x\n" in cluster.script
    cell = cluster.cell("7")
    assert cell.overrides == ["hardware=cpu", "hardware.threads=3", "norm=pn", "tracking=none"]
    assert compose_config(cell.experiment, cell.overrides).variant == "pn"


def test_a_process_is_a_gpu_and_an_equal_share_of_the_cpus(cluster: Cluster) -> None:
    assert main(["run", "demo", "norm=pn", "hardware.processes=8", *SLURM]) == 0
    assert cluster.asked()["gpus-per-node"] == "8"
    cell = cluster.cell("7")
    assert cell.overrides[:3] == ["hardware=gpus", "hardware.processes=8", "norm=pn"]
    assert compose_config(cell.experiment, cell.overrides).run_dir == "runs/demo/pn,processes=8/seed1"
    on_a_cpu = ["hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=8", "hardware.processes=2"]
    assert main(["run", "demo", *SLURM, *on_a_cpu]) == 0
    assert cluster.cell("7").overrides[:2] == ["hardware=cpu", "hardware.threads=4"]


@pytest.mark.parametrize("kind", ["gpus_per_task=1", "gres=gpu:a100:1"])
def test_a_gpu_can_be_asked_for_in_other_words(cluster: Cluster, kind: str) -> None:
    assert main(["run", "demo", *SLURM, "hydra.launcher.gpus_per_node=null", f"hydra.launcher.{kind}"]) == 0
    assert cluster.cell("7").overrides[0] == "hardware=gpus"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["norm=ln,nope"], ["'nope'", "pn_alg2"]),
        (["norm=ln,pn", "evaluate.beam=2,0"], ["evaluate.beam=0"]),
        (["hardware=slurm,cpu"], ["hardware=slurm", "all cells"]),
        (["hydra.launcher.timeout_min=1,2"], ["hydra.launcher", "all cells"]),
        (["hydra.launcher.partitio=x"], ["did you mean partition", "timeout_min"]),
        (["hydra.launcher.timeout_min=long"], ["timeout_min", "'long'"]),
        (["hardware=cpu", "hydra.launcher.partition=x"], ["hydra.launcher.partition", "hardware=slurm"]),
        (["hardware=cpu", "hardware.name=slurm"], ["hardware=slurm", "by name"]),
        (["hydra.launcher.gpus_per_node=8"], ["hardware.processes=8"]),
        (["hydra.launcher.nodes=2"], ["multi_node.sbatch"]),
    ],
)
def test_all_is_checked_before_anything_is_submitted(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], overrides: list[str], words: list[str]
) -> None:
    assert main(["run", "demo", "-m", *SLURM, *overrides]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
    assert cluster.nothing_submitted()


def test_without_the_packages_or_slurm(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (cluster.bin / "sbatch").unlink()
    assert main(["run", "demo", *SLURM]) == 1
    assert "no sbatch here" in capsys.readouterr().err
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "submitit_slurm.yaml")
    assert main(["run", "demo", *SLURM]) == 1
    assert "pip install hydra-submitit-launcher" in capsys.readouterr().err


def test_what_slurm_refuses(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.says("sbatch", "echo sbatch: error: no such partition >&2; exit 1")
    assert main(["run", "demo", *SLURM]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no such partition" in line


def test_waiting_tells_a_job_that_ended_before_its_run(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.says("squeue", "")
    assert main(["run", "demo", "-m", "norm=ln,bn", "--wait", *SLURM]) == 1
    assert "2 of 2 jobs ended before their run did: 7_0, 7_1" in capsys.readouterr().err


def test_a_complete_cell_is_shown_and_not_submitted(trained, cluster: Cluster, capsys, monkeypatch) -> None:
    monkeypatch.chdir(trained.folder)
    overrides = ["norm=pn", "tracking=none", "run_dir=run", *TINY]
    assert main(["run", "demo", *overrides, "hardware=slurm"]) == 0
    assert "already complete, in run" in capsys.readouterr().out
    assert not (trained.folder / "runs").exists()


def test_a_job_does_the_run_and_its_status_says_how_it_went(trained, capsys, monkeypatch) -> None:
    from normplugins.runs.slurm import Cell

    monkeypatch.chdir(trained.folder)
    overrides = ["norm=pn", "tracking=none", "run_dir=run", *TINY]
    Cell("demo", overrides)()
    assert f"recorded in {os.path.relpath(trained.result)}" in capsys.readouterr().out
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # a requeued job goes on with what its first go began anew
    Cell("demo", [*overrides, "force=true"])()
    assert "already complete" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        Cell("demo", [*overrides, "evaluate.beam=3"])()
    assert "other settings" in str(ended.value.code)  # a message is status 1


def test_a_job_s_workers_end_when_told_to_and_leave_requeueing_to_it(tmp_path: Path) -> None:
    from normplugins.runs.slurm import Cell

    ready, handled = tmp_path / "ready", tmp_path / "handled"

    def work() -> None:
        os.kill(os.getpid(), signal.SIGUSR2)
        ready.touch()
        signal.pause()

    def job() -> None:
        for number in (signal.SIGTERM, signal.SIGUSR2):  # as submitit does
            signal.signal(number, lambda *_: handled.touch())
        with contextlib.suppress(SystemExit):
            Cell("nope", [])()
        worker = fork.Process(target=work)
        worker.start()
        while not ready.exists():
            worker.join(0.01)
        worker.terminate()
        worker.join()
        os._exit(0 if worker.exitcode == -signal.SIGTERM and not handled.exists() else 1)

    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=job)
    process.start()
    process.join(PATIENCE)
    status = process.exitcode
    process.kill()
    assert status == 0
