"""The meeting of ranks before training: in threads of one process, each of which stands for a rank."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from normplugins.training import rendezvous
from normplugins.training.distributed import Member
from normplugins.training.rendezvous import Rendezvous, file_sizes
from normplugins.utils.errors import UserError

SAME = {"optimization.lr": [0.1], "torch": "2.13.0", "git_commit": "a" * 40}


@pytest.fixture(autouse=True)
def address(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(rendezvous, "EXIT_DELAY_SECONDS", 0)
    monkeypatch.setattr(rendezvous, "UNSEEN_SECONDS", 0)


def meet(*ranks, seconds=20):
    """Return what each rank's function of its Rendezvous returned, or the text of its error."""

    def join(rank):
        try:
            with Rendezvous(Member(rank, len(ranks), rank, len(ranks)), seconds) as joined:
                return ranks[rank](joined)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(join, [rank for rank, function in enumerate(ranks) if function]))


def first(message, description=SAME):
    def function(joined):
        joined.compare(description)
        return joined.send(message)

    return function


def other(description=SAME, delay=0.0):
    def function(joined):
        time.sleep(delay)
        joined.compare(description)
        return joined.receive()

    return function


def refuse(joined):
    raise UserError("evaluate.beam is 0")


@pytest.mark.slow
def test_ranks_that_are_alike_receive_rank_zeros_message(tmp_path):
    (tmp_path / "train.bin").write_bytes(b"12")
    message = {"data": str(tmp_path), "files": file_sizes(tmp_path, tmp_path / "missing")}
    assert message["files"] == {str(tmp_path / "train.bin"): 2}
    assert meet(first(message), other(), other(delay=0.5)) == [None, message, message]


@pytest.mark.slow
@pytest.mark.parametrize("key", ["optimization.lr", "new"])
def test_every_rank_says_which_keys_differ(key):
    found = meet(first({}), other(), other({**SAME, key: "x"}, delay=0.3))
    reason = f"the ranks differ: {key} is {SAME.get(key)} in rank 0 and x in rank 2. Start all ranks with the same "
    assert found[0].startswith(reason)
    assert found[1].startswith(f"rank 1 of 3 ends: {reason}")
    assert found[2].startswith(f"rank 2 of 3 ends: {reason}")


def test_the_refusal_of_a_rank_reaches_all():
    assert meet(first({}), other(), refuse) == [
        "rank 2 refused: evaluate.beam is 0",
        "rank 1 of 3 ends: rank 2 refused: evaluate.beam is 0",
        "evaluate.beam is 0",
    ]
    assert meet(refuse, other(), refuse) == [
        "evaluate.beam is 0",
        "rank 1 of 3 ends: evaluate.beam is 0",
        "evaluate.beam is 0",
    ]


@pytest.mark.slow
def test_a_rank_that_does_not_come_is_named():
    missing = "rank 2 of 3 has not joined within 1 seconds (hardware.timeout_seconds)"
    assert meet(first({}), other(), None, seconds=1) == [missing, f"rank 1 of 3 ends: {missing}"]
    (said,) = meet(None, other(), seconds=1)
    assert said.startswith("rank 1 of 2 cannot reach 127.0.0.1:")


@pytest.mark.slow
def test_a_rank_that_does_not_see_rank_zeros_files_is_refused(tmp_path):
    message = {"files": {str(tmp_path / "checkpoint_last.pt"): 5}}
    reason = (
        f"{tmp_path}/checkpoint_last.pt differs from rank 0's file or is missing: all ranks must share a file system"
    )
    assert meet(first(message), other()) == [f"rank 1 refused: {reason}", f"rank 1 of 2: {reason}"]
    (tmp_path / "checkpoint_last.pt").write_bytes(b"1234")
    assert meet(first(message), other()) == [f"rank 1 refused: {reason}", f"rank 1 of 2: {reason}"]
