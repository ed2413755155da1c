"""``hardware=slurm``: submits cells as one Slurm job array, each task of which is the resumable ``normplugins run``."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from normplugins.runs import folder
from normplugins.utils.errors import UserError

LOGS = Path("runs/slurm")
POLL_SECONDS = 10
_NOT_FOR_THE_JOB = re.compile(r"[+~]*(hardware=|hardware\.slurm[.=])")
_SCRIPT = """\
#!/bin/bash
{options}
# Two minutes before its time limit a task goes back into the queue, and then resumes from its last checkpoint.
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


def submit(experiment: str, cells: Sequence[Sequence[str]], configs: Sequence[DictConfig], wait: bool = False) -> None:
    """Submit a job array with a task for each cell that is not complete, and print the job, folder and log of each.

    Args:
        experiment: the primary config's name.
        cells: the overrides of each cell.
        configs: the same cells, composed and checked.
        wait: return when all jobs have ended.

    Raises:
        UserError: the cells disagree on ``hardware``, there is no Slurm here, Slurm refuses the jobs or, with
            ``wait``, a job ended before its run was complete.
    """
    settings = configs[0].hardware.get("slurm")
    if any(config.hardware.get("slurm") != settings or config.hardware.name != "slurm" for config in configs):
        raise UserError("hardware=slurm and hardware.slurm.* must be the same for all cells: make several calls")
    if settings.gpus not in (0, configs[0].hardware.processes):
        raise UserError(f"hardware.slurm.gpus={settings.gpus}: hardware.processes={settings.gpus} uses that many GPUs")
    if shutil.which("sbatch") is None:
        raise UserError("hardware=slurm: there is no sbatch command here. Call this on a login node of the cluster")
    left = []
    for overrides, config in zip(cells, configs, strict=True):
        if folder.completed(config) and not config.force:
            print(f"{_title(config)}: already complete, in {config.run_dir} (force=true runs it again)")
        else:
            left.append(([experiment, *in_job(overrides, config)], config))
    if not left:
        return
    job = _sbatch(script(experiment, [words for words, _ in left], settings))
    for task, (_, config) in enumerate(left):
        print(f"job {job}_{task}: {_title(config)} in {config.run_dir}, log {LOGS}/{job}_{task}.log")
    print(f"{len(left)} submitted: squeue --job {job} shows what waits and runs, scancel {job} ends it")
    if wait:
        try:
            _wait_for(job)
        except KeyboardInterrupt as interrupt:
            raise UserError("no longer waiting; the jobs go on") from interrupt
        if lost := [f"{job}_{task}" for task, (_, config) in enumerate(left) if not folder.completed(config)]:
            raise UserError(f"{len(lost)} of {len(left)} jobs ended before their runs were complete: {', '.join(lost)}")


def in_job(overrides: Sequence[str], config: DictConfig) -> list[str]:
    """A cell's overrides in its job, where the hardware that the job asks for replaces ``hardware=slurm``."""
    own = [item for item in overrides if not _NOT_FOR_THE_JOB.match(item)]
    hardware = config.hardware
    if hardware.slurm.gpus:
        return ["hardware=gpus", f"hardware.processes={hardware.processes}", *own]
    return ["hardware=cpu", f"hardware.threads={max(1, hardware.slurm.cpus // hardware.processes)}", *own]


def script(name: str, cells: Sequence[Sequence[str]], settings: DictConfig) -> str:
    """The batch script: a job array whose tasks each pick one cell, the arguments of one ``normplugins run``."""
    return _SCRIPT.format(
        options="\n".join(f"#SBATCH {option}" for option in _options(name, len(cells), settings)),
        cells="\n".join(shlex.quote(shlex.join(words)) for words in cells),
        setup="\n".join(settings.setup),
        python=shlex.quote(sys.executable),
    )


def _options(name: str, count: int, settings: DictConfig) -> Iterator[str]:
    yield f"--job-name={name}"
    yield f"--array=0-{count - 1}" + (f"%{settings.parallel}" if settings.parallel else "")
    yield f"--output={LOGS}/%A_%a.log"
    yield from ("--open-mode=append", "--requeue", "--signal=B:USR2@120", "--nodes=1", "--ntasks=1")
    yield f"--cpus-per-task={settings.cpus}"
    if settings.gpus:
        yield f"--gpus-per-node={settings.gpus}"
    for key in ("partition", "account", "qos", "constraint", "time", "mem"):
        if settings[key] is not None:
            yield f"--{key}={settings[key]}"
    yield from settings.options


def _sbatch(text: str) -> str:
    """Submit a batch script and return the job's number."""
    LOGS.mkdir(parents=True, exist_ok=True)  # Slurm does not create the folder of a log
    done = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"Slurm refuses the jobs: {done.stderr.strip()}")
    return done.stdout.strip().partition(";")[0]  # a cluster's name may follow


def _wait_for(job: str) -> None:
    """Return when the queue holds no task of an array any more: neither waiting, running nor requeued."""
    while True:
        queue = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True, text=True, check=False)
        forgotten = "Invalid job id" in queue.stderr  # the job ended long ago
        if forgotten or (queue.returncode == 0 and not queue.stdout.strip()):
            return
        time.sleep(POLL_SECONDS)


def _title(config: DictConfig) -> str:
    return f"{config.experiment} {config.variant} seed {config.seed}"
