"""Training in several processes, which this process starts itself, or which torchrun or srun started."""

import logging
import os
import pickle
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, start_processes
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from normplugins.utils.errors import UserError
from normplugins.utils.worker_processes import available_cores

RESUMES = "The same command resumes from the last checkpoint"
T = TypeVar("T")


class RankLost(UserError):
    """Another rank has ended, or has not answered for ``hardware.timeout_seconds``."""


@dataclass(frozen=True)
class Member:
    """The place of a process in a run, and among the run's processes on its machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size}"

    @property
    def one_machine(self) -> bool:
        """Whether all ranks of the run are on this machine."""
        return self.local_size == self.size

    @property
    def gpu(self) -> int:
        """The index of this rank's GPU among its visible GPUs; ``srun --gpus-per-task=1`` makes only one visible."""
        return 0 if sees_own_gpu() else self.local_rank


def launched() -> Member | None:
    """Return this process's place in a run that torchrun or srun started, or None for a single process.

    The variables of srun count only if MASTER_ADDR and MASTER_PORT are set: its tasks cannot connect without them.
    """
    torchrun = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    srun = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
    for names in (torchrun, srun):
        if {"MASTER_ADDR", "MASTER_PORT", *names} <= os.environ.keys():
            # SLURM_STEP_TASKS_PER_NODE can be 2(x3): two tasks on each of three nodes
            member = Member(*(int(re.split(r"\D", os.environ[name])[0]) for name in names))
            return member if member.size > 1 else None
    return None


def sees_own_gpu() -> bool:
    """Whether srun has given each of its tasks a GPU of its own, the only one that the task sees."""
    return "RANK" not in os.environ and "SLURM_PROCID" in os.environ and torch.cuda.device_count() == 1


def world_size(config: DictConfig) -> int:
    """Return the number of processes that train together, each on its own batches."""
    return max(1, int(config.distributed_training.distributed_world_size))  # hardware=gpus sets 0 without a GPU


def on_cpu(config: DictConfig) -> bool:
    """Whether a run computes on the CPU, by choice or because there is no GPU."""
    return config.common.cpu or not torch.cuda.is_available()


def threads_per_process(config: DictConfig) -> int:
    """Return the number of CPU threads of each process: ``hardware.threads``, or an equal share of the cores."""
    member = launched()
    share = available_cores() // (member.local_size if member else config.hardware.processes)
    return config.hardware.threads or max(1, share)


def share_batches(config: DictConfig, overrides: Sequence[str]) -> None:
    """Set ``optimization.update_freq`` to each process's share of ``train.batches_per_update``, unless that is null.

    An update then has the same number of tokens in any number of processes. ``config`` is modified in place.

    Raises:
        UserError: the batches cannot be shared evenly, or one of the overrides sets ``optimization.update_freq`` too.
    """
    batches, processes = OmegaConf.select(config, "train.batches_per_update"), world_size(config)
    if batches is None:
        return
    if any(item.lstrip("+").startswith("optimization.update_freq=") for item in overrides):
        raise UserError(
            f"optimization.update_freq follows from train.batches_per_update={batches} and the number of processes: "
            "set train.batches_per_update instead, or set it to null"
        )
    if batches % processes:
        raise UserError(
            f"train.batches_per_update={batches} cannot be shared evenly by {processes} processes: "
            "it must be a multiple of their number"
        )
    config.optimization.update_freq = [batches // processes]


def launch(work: Callable[[Any], None], argument: object, processes: int) -> None:
    """Call ``work(argument)``, both pickled, in several processes of this machine.

    All processes are ended when one of them fails, and Linux ends them when this process is killed. They communicate
    through the loopback interface only.

    Raises:
        UserError: a process raised it, failed or was killed.
        KeyboardInterrupt: Ctrl-C, after all processes have ended.
    """
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in signals}  # torch replaces them
    listener = socket.create_server(("127.0.0.1", 0))  # any free port, which only this machine can reach
    address, port = listener.getsockname()
    store = TCPStore(address, port, is_master=True, master_listen_fd=listener.detach(), wait_for_workers=False)
    size = str(processes)
    shared = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": address, "MASTER_PORT": str(port)}
    shared["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # this process hosts the store, as torchrun does
    ranks = range(processes)
    logging.disable(logging.CRITICAL)  # torch logs a traceback for an error that is reported on one line below
    with tempfile.TemporaryDirectory() as folder:
        started = start_processes(
            "run",
            _worker,
            args=dict.fromkeys(ranks, (work, argument)),
            envs={rank: {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in ranks},
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            ended = started.wait(period=0.1)
        except SignalException as error:
            started.close(error.sigval)
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            sys.exit(128 + error.sigval)
        finally:
            started.close()
            logging.disable(logging.NOTSET)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            del store
    assert ended is not None
    if ended.is_failed():
        rank, failure = min(ended.failures.items(), key=lambda item: item[1].timestamp)
        raise _error_of(f"rank {rank} of {processes}", failure)


def _worker(work: Callable[[Any], None], argument: object) -> None:
    # Linux sends SIGINT when the launcher is killed. Python's own handler would wait for a collective operation to end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    work(argument)


def _error_of(rank: str, failure: ProcessFailure) -> Exception:
    """Return the error that a failed process raised, or an error that says how the process ended."""
    if failure.exitcode < 0:
        hint = ", as the system does when memory runs out" if failure.exitcode == -signal.SIGKILL else ""
        return RankLost(f"{rank} was ended by {failure.signal_name()}{hint}. {RESUMES}")
    report: Any = failure.message  # a dict if the process raised an exception
    if not isinstance(report, dict):
        return UserError(f"{rank} ended with status {failure.exitcode}. {RESUMES}")
    name, _, text = report["message"].partition(": ")
    known: tuple[type[Exception], ...] = (UserError, *UserError.__subclasses__(), pickle.UnpicklingError)
    for kind in known:
        if kind.__name__ == name:
            return kind(text)
    print(report["extraInfo"]["py_callstack"], file=sys.stderr)
    return UserError(f"{rank} failed with the traceback above. {RESUMES}")


def all_gather(value: T) -> list[T]:
    """Return the ``value`` of every rank in order, or a list of one for a single process."""
    if not distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def first_not_none(value: T | None) -> T | None:
    """Return the ``value`` of the first rank where it is not None; all ranks get the same result."""
    return next((found for found in all_gather(value) if found is not None), None)
