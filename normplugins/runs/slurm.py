"""``hardware=slurm``: submits cells as one Slurm job array, whose tasks are resumable ``normplugins run`` commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from normplugins.runs import folder
from normplugins.utils.errors import UserError
from normplugins.utils.json_file import read_json, write_json
from normplugins.utils.locks import hold_lock

LOGS = Path("runs/slurm")
_NOT_FOR_THE_JOB = re.compile(r"[+~]*(hardware=|hardware\.slurm[.=])")
_SCRIPT = """\
#!/bin/bash
{options}
# Two minutes before its time limit the task is requeued. It then resumes from its last checkpoint.
trap 'kill $!; wait $!; scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"' USR2
trap 'kill $!; wait $!' TERM
cells=(
{cells}
)
{setup}
eval "set -- ${{cells[SLURM_ARRAY_TASK_ID]}}"
{python} -m normplugins run "$@" &
wait $!
"""


def submit(experiment: str, cells: Sequence[Sequence[str]], configs: Sequence[DictConfig]) -> None:
    """Submit a job array with a task for each cell that is not complete and not in the queue; print each cell's state.

    ``cells`` are the overrides of each cell, and ``configs`` its composed and checked config.

    Raises:
        UserError: the cells differ in ``hardware``, Slurm is not installed here, or Slurm refuses the jobs.
    """
    settings = configs[0].hardware.get("slurm")
    if any(config.hardware.get("slurm") != settings or config.hardware.name != "slurm" for config in configs):
        raise UserError("hardware=slurm and hardware.slurm.* must be the same for all cells: use several calls")
    if settings.gpus not in (0, configs[0].hardware.processes):
        raise UserError(f"hardware.slurm.gpus={settings.gpus}: to use {settings.gpus} GPUs, set hardware.processes")
    if shutil.which("sbatch") is None:
        raise UserError("hardware=slurm: there is no sbatch command here. Run this on a login node of the cluster")
    left = []
    with hold_lock(LOGS / "lock", lambda holder: print(f"waiting for process {holder}, which submits jobs")):
        queued = queued_runs()
        for overrides, config in zip(cells, configs, strict=True):
            title = f"{config.experiment} {config.variant} seed {config.seed}"
            if folder.completed(config) and not config.force:
                print(f"{title}: already complete, in {config.run_dir} (force=true runs it again)")
            elif found := queued.get(os.path.realpath(config.run_dir)):
                print(f"{title}: already queued or running, as job {found} (scancel {found} ends it)")
            else:
                left.append((title, [experiment, *job_overrides(overrides, config)], config))
        if left:
            _submit(experiment, left, settings)


def _submit(name: str, left: Sequence[tuple[str, Sequence[str], DictConfig]], settings: DictConfig) -> None:
    """Submit a job array with a task for each (title, arguments, config) in ``left``."""
    text = script(name, [arguments for _, arguments, _ in left], settings)
    done = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"Slurm refuses the jobs: {done.stderr.strip()}")
    job = done.stdout.strip().partition(";")[0]  # the name of a cluster may follow
    folders = {f"{job}_{task}": os.path.realpath(config.run_dir) for task, (_, _, config) in enumerate(left)}
    write_json(LOGS / f"{job}.json", folders)
    for task, (title, _, config) in enumerate(left):
        print(f"job {job}_{task}: {title} in {config.run_dir}, log {LOGS}/{job}_{task}.log")
    print(f"{len(left)} submitted: squeue --job {job} shows which wait and run, scancel {job} ends them")


def queued_runs() -> dict[str, str]:
    """Return our waiting and running jobs by the folder of their run. Raises UserError if ``squeue`` fails."""
    submitted: dict[str, str] = {}
    for path in sorted(LOGS.glob("*.json")):
        submitted |= read_json(path, "delete it when its jobs have ended") or {}
    if not submitted:
        return {}
    queue = subprocess.run(
        ["squeue", "--me", "--noheader", "--array", "--format=%i"], capture_output=True, text=True, check=False
    )
    if queue.returncode != 0:
        raise UserError(f"squeue cannot list the jobs in the queue: {queue.stderr.strip()}")
    return {submitted[job]: job for job in queue.stdout.split() if job in submitted}


def job_overrides(overrides: Sequence[str], config: DictConfig) -> list[str]:
    """Return the overrides of a cell for its job, with the requested hardware in place of ``hardware=slurm``."""
    own = [item for item in overrides if not _NOT_FOR_THE_JOB.match(item)]
    slurm, processes = config.hardware.slurm, config.hardware.processes
    if slurm.gpus:
        return ["hardware=gpus", f"hardware.processes={processes}", *own]
    return ["hardware=cpu", f"hardware.threads={max(1, slurm.cpus // processes)}", *own]


def script(name: str, cells: Sequence[Sequence[str]], settings: DictConfig) -> str:
    """Return the batch script of a job array; each task runs one of the ``cells``, which are arguments of a run."""
    options = [
        f"--job-name={name}",
        f"--array=0-{len(cells) - 1}" + (f"%{settings.parallel}" if settings.parallel else ""),
        f"--output={LOGS}/%A_%a.log",
        *("--open-mode=append", "--requeue", "--signal=B:USR2@120", "--nodes=1", "--ntasks=1"),
        f"--cpus-per-task={settings.cpus}",
        *([f"--gpus-per-node={settings.gpus}"] if settings.gpus else []),
    ]
    named = ("partition", "account", "qos", "constraint", "time", "mem")
    options += [f"--{key}={settings[key]}" for key in named if settings[key] is not None]
    return _SCRIPT.format(
        options="\n".join(f"#SBATCH {option}" for option in (*options, *settings.options)),
        cells="\n".join(shlex.quote(shlex.join(arguments)) for arguments in cells),
        setup="\n".join(settings.setup),
        python=shlex.quote(sys.executable),
    )
