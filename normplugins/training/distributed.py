"""The processes of one run: started here, or by torchrun or srun; when one is lost, all of them end."""

import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig
from torch import distributed

from normplugins.utils.errors import UserError
from normplugins.utils.threads import use_threads
from normplugins.utils.worker_processes import available_cores

GOES_ON = "The same command goes on from the last checkpoint"
GRACE_SECONDS = 5  # for a process to end by itself once another has failed, and again once it is told to
HEARD_SECONDS = 30  # for the others to hear the first one's word before it ends
# What torch.distributed says when another process is gone or does not answer: it has no exception of its own for that.
_LOST = re.compile(r"gloo|NCCL|TCPStore|ProcessGroup|[Cc]onnection|[Tt]imed? ?out")
T = TypeVar("T")


class Lost(UserError):
    """Another process of the run is gone, or has not answered for ``hardware.timeout_seconds``."""


@dataclass(frozen=True)
class Member:
    """A process's place: ``rank`` of the run's ``size``, and ``local_rank`` of the ``local_size`` on its machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    def __str__(self) -> str:
        return f"process {self.rank} of 0 to {self.size - 1}"


def launched() -> Member | None:
    """This process's place among those that torchrun or srun started for one run; None where it stands alone.

    srun counts when MASTER_ADDR and MASTER_PORT are exported too: without them its tasks could not find each other.
    """
    if not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return None
    for names in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    ):
        if set(names) <= os.environ.keys():
            # Slurm's last one may read 2(x3): two on each of three nodes
            member = Member(*(int(re.split(r"\D", os.environ[name])[0]) for name in names))
            return member if member.size > 1 else None
    return None


def on_cpu(config: DictConfig) -> bool:
    """Whether a run computes on the CPU: told to, or for want of a GPU."""
    return config.common.cpu or not torch.cuda.is_available()


@dataclass(frozen=True)
class DistributedConfig:
    """On what terms processes work together: on a CPU or on GPUs, how long each waits for the others, its threads."""

    cpu: bool
    timeout_seconds: float
    threads: int


def distributed_config(config: DictConfig) -> DistributedConfig:
    """The terms that a run's ``hardware`` sets. Threads: ``hardware.threads``, or an equal share of the cores."""
    member = launched()
    share = available_cores() // (member.local_size if member else config.hardware.processes)
    return DistributedConfig(on_cpu(config), config.hardware.timeout_seconds, config.hardware.threads or max(1, share))


def take_part(work: Callable[[], None], member: Member, store: distributed.Store, terms: DistributedConfig) -> None:
    """Do ``work`` as one of several processes, in the default process group: gloo on a CPU, NCCL on GPUs.

    Returns when all have done it.

    Raises:
        Lost: another process is gone or does not answer.
    """
    use_threads(terms.threads)
    if not terms.cpu:
        torch.cuda.set_device(member.local_rank)
    timeout = timedelta(seconds=terms.timeout_seconds)
    backend = "gloo" if terms.cpu else "nccl"
    try:
        distributed.init_process_group(backend, store=store, rank=member.rank, world_size=member.size, timeout=timeout)
        # For fairseq too, and so for the gradients: it would make a group of its own, which waits for half an hour, and
        # what synchronised norms exchange on one of two NCCL communicators at work may block the other.
        distributed_utils.get_global_group._global_group = distributed.group.WORLD
        work()
        distributed.barrier()
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and not _LOST.search(str(error)):
            raise
        why = re.sub(r"^\[\S*\] |\. This is typically .*", "", str(error).strip().splitlines()[0])  # without advice
        raise Lost(f"{member} has lost the others: {why}. {GOES_ON}") from error
    distributed.destroy_process_group()
    del distributed_utils.get_global_group._global_group


def spawn(work: Callable[[], None], size: int, terms: DistributedConfig) -> None:
    """Do ``work``, which is pickled, in ``size`` processes on this machine; when one fails, end them all.

    Raises:
        UserError: what one of them raised; or one was killed, or does not answer.
    """
    context = multiprocessing.get_context("spawn")
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # 0: any port that is free
    members = [Member(rank, size, rank, size) for rank in range(size)]
    pipes = [context.Pipe(duplex=False) for _ in members]
    started = [
        context.Process(target=_spawned, args=(work, member, store.port, terms, sender))
        for member, (_, sender) in zip(members, pipes, strict=True)
    ]
    try:
        for process, (_, sender) in zip(started, pipes, strict=True):
            process.start()
            sender.close()
        # Asked once a turn: one that ends in between would leave nothing to wait for, and wait() for ever.
        while (running := _running(started)) and all(process.exitcode in (None, 0) for process in started):
            connection.wait([process.sentinel for process in running])
        _wait(started)  # what the others say of a failure, or of their own
        codes = [process.exitcode for process in started]
    finally:
        _end(started)
    if any(codes):
        raise _explanation(members, codes, [_received(receiver) for receiver, _ in pipes], terms)


def _spawned(
    work: Callable[[], None],
    member: Member,
    port: int,
    terms: DistributedConfig,
    report: "connection.Connection[Any, Any]",
) -> None:
    # Ctrl-C reaches every process of a terminal: the one that started this one ends it, in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        take_part(work, member, distributed.TCPStore("127.0.0.1", port), terms)
    except UserError as error:
        report.send((type(error), str(error)))
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # whoever started us was killed, and holds the run's folder no more


def _running(processes: Sequence[SpawnProcess]) -> list[SpawnProcess]:
    return [process for process in processes if process.is_alive()]


def _wait(processes: Sequence[SpawnProcess]) -> None:
    until = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))


def _end(processes: Sequence[SpawnProcess]) -> None:
    """End what still runs: politely, then not."""
    begun = [process for process in processes if process.pid is not None]
    for process in _running(begun):
        process.terminate()
    _wait(begun)
    for process in _running(begun):  # such as one that was stopped
        process.kill()
        process.join()


def _received(receiver: "connection.Connection[Any, Any]") -> tuple[type[UserError], str] | None:
    try:
        return receiver.recv() if receiver.poll() else None
    except EOFError:  # it ended without a word, or in the middle of one
        return None


def _explanation(
    members: Sequence[Member],
    codes: Sequence[int | None],
    told: Sequence[tuple[type[UserError], str] | None],
    terms: DistributedConfig,
) -> UserError:
    """Why a run of several processes failed: the cause before what the others noticed of it."""
    for words in told:
        if words and words[0] is not Lost:
            return words[0](words[1])
    for member, code, words in zip(members, codes, told, strict=True):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
            return Lost(f"{member} was ended by {name}{hint}. {GOES_ON}")
        if code and not words:
            return UserError(f"{member} failed: its error stands above. {GOES_ON}")
    for member, code in zip(members, codes, strict=True):
        if code is None:
            waited = f"{terms.timeout_seconds:g} s (hardware.timeout_seconds)"
            return Lost(f"{member} has not answered for {waited}. {GOES_ON}")
    return Lost(next(words[1] for words in told if words))


class Rendezvous:
    """Where the processes of a launcher wait for the first one's word on what to train: it alone prepares and records.

    Raises Lost when they do not find each other.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.spoken = False
        try:
            self.store = next(distributed.rendezvous("env://", member.rank, member.size))[0]
        except RuntimeError as error:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise Lost(f"{member} does not reach {where}: {str(error).splitlines()[0]}") from error

    def send(self, word: dict[str, str]) -> None:
        """Tell the others what to train, or with an empty word that there is nothing to do; the first word counts."""
        if self.spoken:
            return
        self.spoken = True
        self.store.set("word", json.dumps(word))
        until = time.monotonic() + HEARD_SECONDS
        while self.store.add("heard", 0) < self.member.size - 1 and time.monotonic() < until:
            time.sleep(0.05)

    def receive(self) -> dict[str, str]:
        """Wait for the first process's word, through its preparation of the corpus.

        Raises:
            Lost: it has failed or is gone.
        """
        try:
            while not self.store.check(["word"]):
                time.sleep(0.5)
            word: dict[str, str] = json.loads(self.store.get("word"))
            self.store.add("heard", 1)
        except RuntimeError as error:
            raise Lost(f"{self.member}: the first process is gone") from error
        if "failed" in word:
            raise Lost(f"{self.member} has nothing to do: the first process failed before training")
        return word

    @contextmanager
    def rank_zero(self) -> Iterator[None]:
        """What the first process does: the others are told when it fails, and when there was nothing to train."""
        try:
            yield
        except BaseException:
            self.send({"failed": "yes"})
            raise
        self.send({})


def gathered(value: T) -> list[T]:
    """Every process's ``value``, in the order of their ranks; a list of one where there is one process."""
    if not distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def first_found(value: T | None) -> T | None:
    """The first process's value that is not None, the same in every process."""
    return next((found for found in gathered(value) if found is not None), None)
