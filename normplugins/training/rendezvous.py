"""Rendezvous of a run's ranks before training: they compare settings, and then rank zero gives the start signal."""

import json
import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from normplugins.training.distributed import RESUMES, Member, RankLost, launched, on_cpu, threads_per_process
from normplugins.utils.errors import UserError
from normplugins.utils.threads import use_threads

EXIT_DELAY_SECONDS = 1  # torchrun reports the rank that exits first, so a rank that lost another one exits later
RECEIVE_SECONDS = 30  # the longest time that rank zero waits for the other ranks to read its message
UNSEEN_SECONDS = 10  # how long a network file system may take to show a new file to all machines
LOOPBACK = "127.0.0.1"
# torch.distributed has no exception class for a lost peer; its messages contain one of these words.
_LOST_PEER = re.compile(r"gloo|NCCL|TCPStore|ProcessGroup|[Cc]onnection|[Tt]imed? ?out")
_SHOWN = 5  # the largest number of differing settings that an error lists


class Rendezvous:
    """A store through which the ranks of a run agree on what to train, before they form a process group.

    It is a context manager. A rank that leaves the block with an error reports it to the others, which then end too.
    The ranks wait up to ``seconds`` for each other at the start; ``member`` is the place of this process among them.

    Raises:
        RankLost: this rank cannot reach the store.
    """

    def __init__(self, member: Member, seconds: float) -> None:
        self.member, self.seconds = member, seconds
        self.absent = 0  # ranks that have not joined
        self.sent = False  # whether this rank has sent what the others wait for
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        hosted_by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun sets it
        hosts, alone = member.rank == 0 and not hosted_by_launcher, member.one_machine and not hosted_by_launcher
        address = LOOPBACK if alone else address
        try:
            listener = socket.create_server((address, port)).detach() if hosts and alone else None
            options: dict[str, Any] = {"wait_for_workers": False, "master_listen_fd": listener}
            self.store = TCPStore(address, port, member.size, hosts, timedelta(seconds=seconds), **options)
        except (RuntimeError, OSError) as error:
            raise _lost(f"{member} cannot reach {address}:{port}: {str(error).splitlines()[0]}") from error

    def __enter__(self) -> "Rendezvous":
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if self.sent:
            return
        reason = None if error is None else str(error) or type(error).__name__
        with suppress(RuntimeError):  # the store has ended with rank zero
            if self.member.rank == 0:
                self.send({} if reason is None else {"failed": reason})
            elif reason is not None:
                self._describe({"refused": reason})
                self.store.add("received", 1)

    def compare(self, description: dict[str, Any]) -> None:
        """Check on rank zero that all ranks have the same ``description``: their settings and versions.

        Raises:
            UserError: a rank has a different description, or has refused to start.
            RankLost: a rank has not joined in time.
        """
        if self.member.rank:
            self._describe({"description": description})
            return
        size, deadline = self.member.size, time.monotonic() + self.seconds
        while len(joined := self._joined()) < size - 1:
            if time.monotonic() > deadline:
                missing = [rank for rank in range(1, size) if rank not in joined]
                self.absent = len(missing)
                raise RankLost(
                    f"rank {missing[0]} of {size} has not joined within {self.seconds:g} seconds "
                    "(hardware.timeout_seconds)"
                )
            time.sleep(0.05)
        for rank, content in joined.items():
            theirs = content["description"]
            keys = [key for key in sorted(theirs.keys() | description) if theirs.get(key) != description.get(key)]
            if keys:
                shown = [
                    f"{key} is {description.get(key)} in rank 0 and {theirs.get(key)} in rank {rank}"
                    for key in keys[:_SHOWN]
                ]
                raise UserError(f"the ranks differ: {'; '.join(shown)}. Start all ranks with the same command and code")

    def _describe(self, content: dict[str, Any]) -> None:
        self.sent = "refused" in content
        self.store.set(f"rank{self.member.rank}", json.dumps(content, default=str))

    def _joined(self) -> dict[int, dict[str, Any]]:
        """Return what the other ranks have written so far; raise UserError if one of them has refused to start."""
        ranks = [rank for rank in range(1, self.member.size) if self.store.check([f"rank{rank}"])]
        joined = {rank: json.loads(self.store.get(f"rank{rank}")) for rank in ranks}
        for rank, content in joined.items():
            if "refused" in content:
                raise UserError(f"rank {rank} refused: {content['refused']}")
        return joined

    def send(self, message: dict[str, Any]) -> None:
        """Send the other ranks what to train; an empty message means that there is nothing to train.

        Its ``files`` are the sizes of files that all ranks must see, as :func:`file_sizes` returns them.

        Raises:
            UserError: another rank does not see these files.
        """
        self.sent = True
        self.store.set("message", json.dumps(message))
        deadline = time.monotonic() + RECEIVE_SECONDS  # rank zero may exit soon, and its store with it
        while self.store.add("received", 0) < self.member.size - 1 - self.absent and time.monotonic() < deadline:
            time.sleep(0.05)
        if message.get("files"):
            self._joined()  # raises UserError if a rank does not see them

    def receive(self) -> dict[str, Any]:
        """Wait for rank zero's message, without a time limit because preparing a corpus may take hours.

        Raises:
            RankLost: rank zero has failed or ended.
            UserError: this rank does not see the files that rank zero sees.
        """
        self.sent = True
        try:
            while not self.store.check(["message"]):  # a blocking wait would delay Python's signal handlers
                time.sleep(0.5)
            message: dict[str, Any] = json.loads(self.store.get("message"))
            unseen = _unseen(message.get("files", {}))
            if unseen:
                self._describe({"refused": unseen})
            self.store.add("received", 1)
        except RuntimeError as error:
            raise _lost(f"{self.member}: rank zero has ended") from error
        if "failed" in message:
            raise _lost(f"{self.member} ends: {message['failed']}")
        if unseen:
            raise UserError(f"{self.member}: {unseen}")
        return message

    def train_together(self, train: Callable[[], None], config: DictConfig) -> None:
        """Call ``train`` in a process group of all ranks (gloo on CPUs, NCCL on GPUs) and wait for all ranks.

        Raises:
            RankLost: another rank has ended or does not answer.
        """
        use_threads(threads_per_process(config))
        cpu, timeout = on_cpu(config), timedelta(seconds=config.hardware.timeout_seconds)
        if not cpu:
            torch.cuda.set_device(self.member.gpu)
        if self.member.one_machine:
            loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
            for backend in ("GLOO", "NCCL"):
                os.environ.setdefault(f"{backend}_SOCKET_IFNAME", loopback)
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


def refuse(error: UserError) -> None:
    """Report to the other ranks of a launched run that this one cannot start, for example because of its overrides."""
    if member := launched():
        with suppress(UserError), Rendezvous(member, RECEIVE_SECONDS):
            raise error


def file_sizes(*paths: Path) -> dict[str, int]:
    """Return the size in bytes of each of these files, and of each file in these folders, by its path."""
    found = (each for path in paths for each in (path.iterdir() if path.is_dir() else [path]))
    return {str(path.absolute()): path.stat().st_size for path in found if path.is_file()}


def _unseen(files: dict[str, int]) -> str:
    """Return how a file on this machine differs from rank zero's, or an empty string if all files are the same."""
    deadline = time.monotonic() + UNSEEN_SECONDS
    while wrong := [path for path, size in files.items() if file_sizes(Path(path)) != {path: size}]:
        if time.monotonic() > deadline:
            return f"{wrong[0]} differs from rank 0's file or is missing: all ranks must share a file system"
        time.sleep(0.5)
    return ""


def _lost(message: str) -> RankLost:
    time.sleep(EXIT_DELAY_SECONDS)
    return RankLost(message)
