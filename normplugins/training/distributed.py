"""Training in several processes, which this process starts through torchrun's Python API, or which torchrun or srun
started."""

import json
import logging
import os
import pickle
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig, OmegaConf
from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.rendezvous import rendezvous

from normplugins.utils.errors import UserError
from normplugins.utils.threads import use_threads
from normplugins.utils.worker_processes import available_cores

RESUMES = "The same command resumes from the last checkpoint"
EXIT_DELAY_SECONDS = 1  # torchrun reports the rank that exits first, so a rank that lost another one exits later
RECEIVE_SECONDS = 30  # how long rank zero waits at most for the other ranks to read its message
# torch.distributed has no exception class for a lost peer; its messages contain one of these words.
_LOST_PEER = re.compile(r"gloo|NCCL|TCPStore|ProcessGroup|[Cc]onnection|[Tt]imed? ?out")
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


def world_size(config: DictConfig) -> int:
    """Return the number of processes that train together, each on its own batches."""
    return max(1, int(config.distributed_training.distributed_world_size))  # hardware=gpus has none without a GPU


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
            "set that, or set it to null"
        )
    if rest := batches % processes:
        divisors = [number for number in range(1, batches + 1) if batches % number == 0]
        near = [n for n in divisors if n < processes][-1:] + [n for n in divisors if n > processes][:1]
        multiples = [n for n in (batches - rest, batches - rest + processes) if n]
        raise UserError(
            f"train.batches_per_update={batches} cannot be shared evenly by {processes} processes: "
            f"{' or '.join(map(str, near))} processes would do, or train.batches_per_update="
            f"{' or '.join(map(str, multiples))}"
        )
    config.optimization.update_freq = [batches // processes]


def launch(work: Callable[[Any], T], argument: object, processes: int) -> T:
    """Call ``work(argument)``, both pickled, in several processes of this machine, and return rank zero's result.

    torchrun ends all processes when one of them fails, and Linux ends them when this process is killed.

    Raises:
        UserError: a process raised it, failed or was killed.
        KeyboardInterrupt: Ctrl-C, after all processes have ended.
    """
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in signals}  # torchrun replaces them
    logging.disable(logging.CRITICAL)  # torchrun logs a traceback for an error that is reported on one line below
    try:
        with tempfile.TemporaryDirectory() as folder:
            options = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=processes,
                rdzv_backend="c10d",
                rdzv_endpoint="127.0.0.1:0",  # any free port
                local_addr="127.0.0.1",  # the machine's own host name may not resolve
                max_restarts=0,
                logs_specs=DefaultLogsSpecs(log_dir=folder),
            )
            results: dict[int, T] = elastic_launch(options, _worker)(work, argument)
            return results[0]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise _error_of(f"rank {rank} of {processes}", failure) from None
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        sys.exit(128 + error.sigval)
    finally:
        logging.disable(logging.NOTSET)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _worker(work: Callable[[Any], T], argument: object) -> T:
    # Linux sends SIGINT when the launcher is killed. Python's own handler would wait for a collective operation to end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return work(argument)


def _error_of(rank: str, failure: ProcessFailure) -> Exception:
    """Return the error that a failed process raised, or one that says how the process ended."""
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


class Rendezvous:
    """A store through which rank zero, which prepares the corpus, tells the other ranks when and what to train.

    Raises:
        RankLost: this rank cannot reach the store.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.sent = False
        try:
            self.store = next(rendezvous("env://", member.rank, member.size))[0]
        except RuntimeError as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise _lost(f"{member} does not reach {address}: {str(error).splitlines()[0]}") from error

    def send(self, message: dict[str, str]) -> None:
        """Tell the other ranks what to train; an empty message means nothing. Only the first call has an effect."""
        if self.sent:
            return
        self.sent = True
        self.store.set("message", json.dumps(message))
        deadline = time.monotonic() + RECEIVE_SECONDS  # the store ends with rank zero, which may have nothing to train
        while self.store.add("received", 0) < self.member.size - 1 and time.monotonic() < deadline:
            time.sleep(0.05)

    def receive(self) -> dict[str, str]:
        """Wait for rank zero's message, without a time limit because preparing a corpus may take hours.

        Raises:
            RankLost: rank zero has failed or ended.
        """
        try:
            while not self.store.check(["message"]):  # a blocking wait would delay Python's signal handlers
                time.sleep(0.5)
            message: dict[str, str] = json.loads(self.store.get("message"))
            self.store.add("received", 1)
        except RuntimeError as error:
            raise _lost(f"{self.member}: rank zero has ended") from error
        if "failed" in message:
            raise _lost(f"{self.member} has nothing to do: rank zero failed before training")
        return message

    @contextmanager
    def rank_zero(self) -> Iterator[None]:
        """Run rank zero's part. If it ends without a message, tell the other ranks that it failed or is complete."""
        message = {"failed": "yes"}
        try:
            yield
            message = {}
        finally:
            self.send(message)

    def train_together(self, train: Callable[[], None], config: DictConfig) -> None:
        """Call ``train`` in a process group of all ranks (gloo on CPUs, NCCL on GPUs) and wait for all ranks.

        Raises:
            RankLost: another rank has ended or does not answer.
        """
        use_threads(threads_per_process(config))
        cpu, timeout = on_cpu(config), timedelta(seconds=config.hardware.timeout_seconds)
        if not cpu:
            torch.cuda.set_device(self.member.local_rank)
        backend, rank, size = "gloo" if cpu else "nccl", self.member.rank, self.member.size
        try:
            distributed.init_process_group(backend, store=self.store, rank=rank, world_size=size, timeout=timeout)
            # fairseq would create a second group for the gradients with a timeout of half an hour, and operations of
            # synchronized norms on one of two NCCL communicators could block those on the other.
            distributed_utils.get_global_group._global_group = distributed.group.WORLD
            train()
            distributed.barrier()
        except RuntimeError as error:
            if not isinstance(error, distributed.DistError) and not _LOST_PEER.search(str(error)):
                raise
            why = re.sub(r"^\[\S*\] |\. This is typically .*", "", str(error).strip().splitlines()[0])
            raise _lost(f"{self.member} has lost the other ranks: {why}. {RESUMES}") from error
        distributed.destroy_process_group()
        del distributed_utils.get_global_group._global_group


def _lost(message: str) -> RankLost:
    time.sleep(EXIT_DELAY_SECONDS)
    return RankLost(message)


def all_gather(value: T) -> list[T]:
    """Return the ``value`` of every rank in order, or a list of one for a single process."""
    if not distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def first_not_none(value: T | None) -> T | None:
    """Return the ``value`` of the first rank where it is not None; the same in every rank."""
    return next((found for found in all_gather(value) if found is not None), None)
