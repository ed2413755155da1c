"""Runs of several processes: started here through torchrun's Python interface, or by torchrun or srun."""

import json
import logging
import os
import pickle
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig
from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.rendezvous import rendezvous

from normplugins.utils.errors import UserError
from normplugins.utils.threads import use_threads
from normplugins.utils.worker_processes import available_cores

RESUMES = "The same command resumes from the last checkpoint"
LOST_PAUSE_SECONDS = 1  # a launcher blames the first rank that ends: a rank that lost the others lets them end first
RECEIVE_SECONDS = 30  # the longest that rank zero waits for the other ranks to read its message
# torch.distributed has no exception class for a lost peer: these are words of its messages.
_LOST = re.compile(r"gloo|NCCL|TCPStore|ProcessGroup|[Cc]onnection|[Tt]imed? ?out")
T = TypeVar("T")


class Lost(UserError):
    """Another rank has ended, or has not answered for ``hardware.timeout_seconds``."""


@dataclass(frozen=True)
class Member:
    """One process of a run: ``rank`` of ``size``, and ``local_rank`` of ``local_size`` on its machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size}"


def launched() -> Member | None:
    """Return this process's place in a run that torchrun or srun started, or None for a single process.

    srun counts only when MASTER_ADDR and MASTER_PORT are exported, because its tasks cannot find each other otherwise.
    """
    if not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return None
    for names in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    ):
        if set(names) <= os.environ.keys():
            # SLURM_STEP_TASKS_PER_NODE may be 2(x3): two tasks on each of three nodes
            member = Member(*(int(re.split(r"\D", os.environ[name])[0]) for name in names))
            return member if member.size > 1 else None
    return None


def on_cpu(config: DictConfig) -> bool:
    """Whether a run computes on the CPU, by choice or because there is no GPU."""
    return config.common.cpu or not torch.cuda.is_available()


def threads_per_process(config: DictConfig) -> int:
    """The number of CPU threads of each process: ``hardware.threads``, or an equal share of the cores."""
    member = launched()
    share = available_cores() // (member.local_size if member else config.hardware.processes)
    return config.hardware.threads or max(1, share)


def launch(work: Callable[[Any], T], argument: object, processes: int) -> T:
    """Call ``work(argument)``, both pickled, in several processes of this machine, as torchrun does.

    When a process fails, torchrun ends the others. When this process is killed, Linux ends all of them.

    Returns:
        What rank zero returned.

    Raises:
        UserError: a process raised it, failed or was killed.
        KeyboardInterrupt: Ctrl-C, after all processes have ended.
    """
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in handled}  # torchrun leaves its own handlers behind
    logging.disable(logging.CRITICAL)  # torchrun's tracebacks of a failed process; the cause becomes one line below
    try:
        with tempfile.TemporaryDirectory() as folder:
            options = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=processes,
                run_id="normplugins",
                rdzv_backend="c10d",
                rdzv_endpoint="127.0.0.1:0",  # any free port
                local_addr="127.0.0.1",  # the machine's own name need not resolve
                max_restarts=0,
                logs_specs=DefaultLogsSpecs(log_dir=folder),
            )
            results: dict[int, T] = elastic_launch(options, _worker)(work, argument)
            return results[0]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise _explanation(f"rank {rank} of {processes}", failure) from None
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        sys.exit(128 + error.sigval)
    finally:
        logging.disable(logging.NOTSET)
        for number, handler in before.items():
            signal.signal(number, handler)


def _worker(work: Callable[[Any], T], argument: object) -> T:
    # Linux sends SIGINT when the launcher is killed, and a collective operation would delay Python's own handler.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return work(argument)


def _explanation(who: str, failure: ProcessFailure) -> Exception:
    """The error of a failed process, as the process raised it if it reported one."""
    if failure.exitcode < 0:
        hint = ", as the system does when memory runs out" if failure.exitcode == -signal.SIGKILL else ""
        return Lost(f"{who} was ended by {failure.signal_name()}{hint}. {RESUMES}")
    reported: Any = failure.message  # torchrun's record of the exception, or a text if there is none
    if isinstance(reported, dict):
        name, _, text = reported["message"].partition(": ")
        known_errors: tuple[type[Exception], ...] = (UserError, *UserError.__subclasses__(), pickle.UnpicklingError)
        for known in known_errors:
            if name == known.__name__:
                return known(text)
        print(reported["extraInfo"]["py_callstack"], file=sys.stderr)
        return UserError(f"{who} failed with the traceback above. {RESUMES}")
    return UserError(f"{who} ended with status {failure.exitcode}. {RESUMES}")


class Rendezvous:
    """The store through which rank zero, which prepares the corpus, tells the other ranks when to train and on what.

    Raises:
        Lost: the ranks cannot reach the store.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.sent = False
        try:
            self.store = next(rendezvous("env://", member.rank, member.size))[0]
        except RuntimeError as error:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise _lost(f"{member} does not reach {where}: {str(error).splitlines()[0]}") from error

    def send(self, message: dict[str, str]) -> None:
        """Tell the other ranks what to train; an empty message means nothing. Only the first call has an effect."""
        if self.sent:
            return
        self.sent = True
        self.store.set("message", json.dumps(message))
        until = time.monotonic() + RECEIVE_SECONDS  # rank zero may be about to end, and the store with it
        while self.store.add("received", 0) < self.member.size - 1 and time.monotonic() < until:
            time.sleep(0.05)

    def receive(self) -> dict[str, str]:
        """Wait for rank zero's message, however long it prepares the corpus.

        This polls, because a blocking wait has a time limit and does not let Python handle signals.

        Raises:
            Lost: rank zero has failed or ended.
        """
        try:
            while not self.store.check(["message"]):
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
        """Run rank zero's part; at its end the other ranks learn that it failed, or that there was nothing to train."""
        try:
            yield
        except BaseException:
            self.send({"failed": "yes"})
            raise
        self.send({})

    def train_together(self, train: Callable[[], None], config: DictConfig) -> None:
        """Call ``train`` in the default process group, gloo on CPUs and NCCL on GPUs; return when all ranks are done.

        Raises:
            Lost: another rank has ended or does not answer.
        """
        use_threads(threads_per_process(config))
        cpu, timeout = on_cpu(config), timedelta(seconds=config.hardware.timeout_seconds)
        if not cpu:
            torch.cuda.set_device(self.member.local_rank)
        backend, rank, size = "gloo" if cpu else "nccl", self.member.rank, self.member.size
        try:
            distributed.init_process_group(backend, store=self.store, rank=rank, world_size=size, timeout=timeout)
            # fairseq would make a second group for the gradients, with a timeout of half an hour, and the messages of
            # synchronized norms on one of two NCCL communicators may block the other.
            distributed_utils.get_global_group._global_group = distributed.group.WORLD
            train()
            distributed.barrier()
        except RuntimeError as error:
            if not isinstance(error, distributed.DistError) and not _LOST.search(str(error)):
                raise
            why = re.sub(r"^\[\S*\] |\. This is typically .*", "", str(error).strip().splitlines()[0])  # no advice
            raise _lost(f"{self.member} has lost the other ranks: {why}. {RESUMES}") from error
        distributed.destroy_process_group()
        del distributed_utils.get_global_group._global_group


def _lost(message: str) -> Lost:
    time.sleep(LOST_PAUSE_SECONDS)
    return Lost(message)


def gathered(value: T) -> list[T]:
    """The ``value`` of every rank, in order; a list of one in a run of one process."""
    if not distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def first_found(value: T | None) -> T | None:
    """The first rank's value that is not None; the same in every rank."""
    return next((found for found in gathered(value) if found is not None), None)
