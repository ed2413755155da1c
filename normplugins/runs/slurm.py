"""Submits cells as Slurm jobs, with the settings of Hydra's submitit launcher and its executor.

``hydra.launcher`` is the launcher's own config: composed, typed and overridden by Hydra. Its ``launch`` is not called.
It says no job's number and waits for all of them, its jobs compose by the rules of ``hydra.main`` and not by ours, and
one whose run fails is a success to Slurm.
"""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from normplugins.runs import folder, record
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config, composing, register_nodes
from normplugins.runs.run import run, titled
from normplugins.utils.errors import UserError

if TYPE_CHECKING:
    from submitit import Job
    from submitit.helpers import DelayedSubmission

LAUNCHER = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
FOR_THE_LAUNCHER = re.compile(r"[+~]*(hydra[./]|hardware[.=])")
NOT_FOR_THE_JOB = re.compile(r"[+~]*(hydra[./]|hardware=)")
WAIT_SECONDS = 10


class Cell:
    """What a job does: one run, on the hardware that the job was given. Pickled by submitit, run on the node."""

    def __init__(self, experiment: str, overrides: list[str]) -> None:
        self.experiment = experiment
        self.overrides = overrides

    def __call__(self) -> None:
        """Bring the run to its end, from its last checkpoint if it has one. The process's status says how it went."""
        os.register_at_fork(after_in_child=_leave_requeueing_to_the_parent)
        try:
            run(compose_config(self.experiment, self.overrides))
        except UserError as error:
            sys.exit(f"normplugins: {' '.join(str(error).split())}")

    def checkpoint(self) -> "DelayedSubmission":
        """What submitit runs in the requeued job, after the time limit: the same again, which goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _leave_requeueing_to_the_parent() -> None:
    """In a forked worker, undo what submitit does with signals: it would outlive SIGTERM, and requeue its job too."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def launch(experiment: str, cells: Sequence[list[str]], configs: Sequence[DictConfig], wait: bool = False) -> None:
    """Submit a job for each cell, as one job array, and print its number, folder and log.

    All cells are checked before any is submitted. One that is complete is shown, and not submitted.

    Args:
        experiment: the primary config's name.
        cells: the overrides of each cell.
        configs: the same cells, composed.
        wait: return when all jobs have ended.

    Raises:
        UserError: a cell or the launcher's settings cannot work, there is no Slurm here, Slurm refuses the jobs or,
            with ``wait``, a job ended before its run did.
    """
    settings = launcher_settings(experiment, cells, configs)
    for config in configs:
        check(config)
    check_slurm(settings, configs[0].hardware.processes)
    waiting = []
    for overrides, config in zip(cells, configs, strict=True):
        if complete(config) and not config.force:
            run(config)
        else:
            waiting.append((Cell(experiment, on_the_node(overrides, config, settings)), config))
    jobs = submit([cell for cell, _ in waiting], settings) if waiting else []
    for job, (_, config) in zip(jobs, waiting, strict=True):
        print(f"job {job.job_id}: {titled(config)} in {config.run_dir}, log {os.path.relpath(job.paths.stdout)}")
    if jobs:
        first = jobs[0].job_id.partition("_")[0]
        print(f"{len(jobs)} submitted: squeue --job {first} shows what waits and runs, scancel {first} ends it")
    if wait and jobs:
        try:
            wait_for(job.job_id for job in jobs)
        except KeyboardInterrupt as interrupt:
            raise UserError("no longer waiting; the jobs stay as they are") from interrupt
        if lost := [job.job_id for job, (_, config) in zip(jobs, waiting, strict=True) if not complete(config)]:
            raise UserError(f"{len(lost)} of {len(jobs)} jobs ended before their run did: {', '.join(lost)}")


def complete(config: DictConfig) -> bool:
    """Whether the run's folder holds its record."""
    return record.read(Path(config.run_dir) / folder.RECORD) is not None


def launcher_settings(experiment: str, cells: Sequence[list[str]], configs: Sequence[DictConfig]) -> dict[str, Any]:
    """``hydra.launcher`` as Hydra composes it, its interpolations resolved.

    Raises:
        UserError: the cells do not agree on it, or it is not the one that ``hardware=slurm`` brings.
    """
    shared = {tuple(item for item in overrides if FOR_THE_LAUNCHER.match(item)) for overrides in cells}
    if len(shared) > 1 or any(config.hardware.name != "slurm" for config in configs):
        raise UserError("hardware=slurm and hydra.launcher.* are the same for all cells of a call: make several calls")
    register_nodes()
    with composing():
        hydra = compose(experiment, overrides=list(shared.pop()), return_hydra_config=True).hydra
    settings = OmegaConf.to_container(hydra.launcher, resolve=True)
    assert isinstance(settings, dict)
    if settings.pop("_target_") != LAUNCHER:
        raise UserError("hardware=slurm is chosen by name, and brings the launcher with it: no hardware.name=slurm")
    return {str(key): value for key, value in settings.items()}


def check_slurm(settings: dict[str, Any], processes: int) -> None:
    """Refuse settings of several tasks or of idle GPUs, and a machine from which nothing can be submitted.

    Raises:
        UserError: says which.
    """
    if (gpus := settings["gpus_per_node"]) and gpus != processes:
        raise UserError(f"hydra.launcher.gpus_per_node={gpus}: hardware.processes={gpus} asks for them, one a process")
    if settings["nodes"] * settings["tasks_per_node"] > 1:
        raise UserError("a job of the launcher is one task on one node: scripts/slurm/multi_node.sbatch is for several")
    if missing := [name for name in ("sbatch", "srun") if shutil.which(name) is None]:
        raise UserError(f"hardware=slurm: no {missing[0]} here. Call this where Slurm's commands are, on a login node")


def on_the_node(overrides: Sequence[str], config: DictConfig, settings: dict[str, Any]) -> list[str]:
    """A cell's overrides in its job: the hardware that the job asks for in the place of ``hardware=slurm``."""
    own = [item for item in overrides if not NOT_FOR_THE_JOB.match(item)]
    if settings["gpus_per_node"] or settings["gpus_per_task"] or "gpu" in (settings["gres"] or ""):
        return ["hardware=gpus", f"hardware.processes={config.hardware.processes}", *own]
    share = (settings["cpus_per_task"] or 0) // config.hardware.processes
    return ["hardware=cpu", *([f"hardware.threads={share}"] if share else []), *own]


def submit(cells: Sequence[Cell], settings: dict[str, Any]) -> "list[Job[None]]":
    """Hand the cells to Slurm as one job array (a single one as a plain job).

    Raises:
        UserError: Slurm does not take them; its own words.
    """
    import submitit

    parameters = {f"slurm_{name}": value for name, value in settings.items() if value is not None}
    # srun takes no number of CPUs from sbatch since Slurm 22.05: its task would be bound to one.
    parameters["slurm_setup"] = ["export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}", *(settings["setup"] or [])]
    folder_, retries = parameters.pop("slurm_submitit_folder"), parameters.pop("slurm_max_num_timeout")
    executor = submitit.AutoExecutor(folder_, cluster="slurm", slurm_max_num_timeout=retries)
    executor.update_parameters(**parameters)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints there what it raises too
            return executor.submit_array(cells)
    except submitit.core.utils.FailedJobError as error:
        hint = ". hydra.launcher.gpus_per_node=null asks for no GPU" if "(gres)" in str(error) else ""
        raise UserError(f"Slurm does not take the jobs: {error}{hint}") from error


def wait_for(jobs: Iterable[str]) -> None:
    """Return when Slurm has none of the jobs in its queue any more."""
    asked = ["squeue", "--noheader", "--jobs", ",".join(jobs)]
    while True:
        answer = subprocess.run(asked, capture_output=True, text=True, check=False)
        gone = "Invalid job id" in answer.stderr  # ended long ago
        if gone or (answer.returncode == 0 and not answer.stdout.strip()):
            return
        time.sleep(WAIT_SECONDS)
