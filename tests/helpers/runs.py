"""Tiny real runs: in processes that can be killed at an exact point, and what they leave on disk."""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from normplugins.cli import main
from normplugins.utils.json_file import HASH

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 300  # seconds that a process may take on a busy machine

CORPUS = ["corpus.train_size=300", "corpus.valid_size=20", "corpus.test_size=20", "corpus.subword_size=60"]
MODEL = [
    f"model.{side}_{name}"
    for side in ("encoder", "decoder")
    for name in ("layers=1", "embed_dim=16", "ffn_embed_dim=16", "attention_heads=2")
]
# About 10 updates per epoch; PN's warmup, as long as the learning rate's, ends within the first epoch.
TINY = [
    *CORPUS,
    *MODEL,
    "hardware=cpu",
    "hardware.threads=1",
    "dataset.max_tokens=1500",
    "lr_scheduler.warmup_updates=6",
    "optimization.max_epoch=0",
    "optimization.max_update=24",
    "common.log_interval=3",
    "train.checkpoint_minutes=0",
    "evaluate.beam=2",
    "evaluate.max_length_b=20",
]

# A language model on a made-up text, with 9 updates per epoch and a last segment that is shorter than the others.
TINY_LM = [
    "corpus.verify=false",
    "hardware=cpu",
    "hardware.threads=1",
    "task.tokens_per_sample=8",
    "model.layers=1",
    "model.embed_dim=16",
    "model.ffn_embed_dim=16",
    "dataset.batch_size=6",
    "evaluate.batch_size=4",
    "optimization.lr=[0.01]",
    "optimization.max_update=24",
    "pn_warmup_updates=6",
    "common.log_interval=3",
    "train.checkpoint_minutes=0",
]
OTHER_CONFIG = (
    "{experiment: other, variant: bn, seed: 1, task: {_name: translation}, norm: {name: bn}, data_dir: data, "
    "corpus: {name: other}, model: {_name: norm_transformer}, evaluate: {average: null}, common: {cpu: true}, "
    "dataset: {max_tokens: 99}, hardware: {threads: null}, optimization: {max_update: 9}}"
)
LINES = {"train": 70, "valid": 15, "test": 17}

# A fork server that has imported everything: each process starts like a fresh command, but without seconds of imports.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.helpers.preload"])


@dataclass(frozen=True)
class Point:
    """A moment in a process: before the ``count``-th call whose audit event and arguments match ``pattern``."""

    pattern: str
    count: int = 1
    send: signal.Signals = signal.SIGKILL


class Command:
    """``normplugins ARGUMENTS`` in a separate process, in ``folder``, with its output in a file and no stdin."""

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        output: Path,
        at: Point | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.output = output
        self.process = _context.Process(target=_execute, args=(arguments, str(folder), str(output), at, env or {}))
        self.process.start()

    def wait(self) -> int:
        """The exit status, or minus the number of the signal that ended the process."""
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {PATIENCE} s:\n{self.text}")
        return self.process.exitcode

    @property
    def text(self) -> str:
        return without_gloo(self.output.read_text(encoding="utf-8"))


def without_gloo(text: str) -> str:
    """Remove the line that the communication library of PyTorch 2.10 prints in each process."""
    return re.sub(r"^\[Gloo\] Rank .*\n", "", text, flags=re.MULTILINE)


def command(arguments: list[str], folder: Path, at: Point | None = None, **env: str) -> tuple[int, str]:
    """Run a command to its end; return its exit status and everything that it printed."""
    output = folder / f"output{len(list(folder.glob('output*')))}"
    started = Command(arguments, folder, output, at, env)
    return started.wait(), started.text


def succeed(arguments: list[str], folder: Path, **env: str) -> str:
    """Run a command that must succeed; return everything that it printed."""
    status, said = command(arguments, folder, **env)
    assert status == 0, said
    return said


def eval_lm(checkpoint: Path, bin_dir: Path, folder: Path) -> float:
    """The mean loss in bits of a tiny language model on the test text, with the four decimals of fairseq's eval-lm."""
    cut = ["--sample-break-mode", "none", "--tokens-per-sample", "8", "--batch-size", "3", "--num-workers", "0"]
    said = succeed(["fairseq", "eval-lm", str(bin_dir), "--path", str(checkpoint), "--cpu", *cut], folder)
    (bits,) = re.findall(r"Loss \(base 2\): ([\d.]+)", said)
    return float(bits)


def _execute(arguments: list[str], folder: str, output: str, at: Point | None, env: dict[str, str]) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as in a process that no server forked
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores SIGINT
    os.chdir(folder)
    for name, value in env.items():  # an empty value removes the variable
        os.environ.pop(name, None) if value == "" else os.environ.update({name: value})
    nothing, file = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for source, number in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if at:
        sys.addaudithook(signal_at(at))
    try:
        sys.exit(main(arguments))
    finally:
        atexit._run_exitfuncs()  # as in a process that multiprocessing did not start: wandb waits for its own process


def signal_at(point: Point) -> Any:
    """Return an audit hook that sends this process the signal, even from a worker, which inherits the hook."""
    seen, pid = 0, os.getpid()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in ("os.rename", "os.link", "open") and re.search(
            point.pattern, " ".join([event, *(str(argument) for argument in arguments[:2])])
        ):
            seen += 1
            if seen == point.count:
                os.kill(pid, point.send)

    return hook


def write_text(folder: Path) -> None:
    """Write three small files for ``corpus=ptb``: each word mostly follows from the one before; one line is blank."""
    draw = random.Random(7)
    for split, count in LINES.items():
        lines = []
        for _ in range(count):
            word = draw.randrange(12)
            words = [word := (5 * word + draw.choice((1, 1, 1, 2))) % 12 for _ in range(draw.randrange(1, 9))]
            lines.append(" ".join(f"w{word}" for word in words))
        if split == "train":
            lines[:2] = [" ".join(f"w{word}" for word in range(12)), ""]
        (folder / f"ptb.{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Trained:
    """A finished run: the command ran in ``folder`` and printed ``output``; the run's own folder is ``directory``."""

    folder: Path
    directory: Path
    output: str

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def result(self) -> Path:
        return self.directory / "record.json"

    @cached_property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.result.read_text(encoding="utf-8"))
        return record


def tiny_run(trained: Trained, *overrides: str, norm: str = "pn") -> list[str]:
    """Return the arguments of a tiny run on the corpus that is already prepared."""
    where = ["tracking=none", "run_dir=run", f"data_dir={trained.data_dir}"]
    return ["run", "demo", f"norm={norm}", *where, *TINY, *overrides]


def whole_and_broken(arguments: list[str], folder: Path, normplugins: Any, monkeypatch: Any) -> list[dict[str, Any]]:
    """Outcomes of a run in folder/whole and, killed at its fourth checkpoint and resumed, in folder/broken."""
    folders = [folder / "whole", folder / "broken"]
    for each in folders:
        each.mkdir()
    status, text = command(arguments, folders[1], Point(r"os\.rename \S+checkpoint_last\.pt\.tmp", 4))
    assert status == -signal.SIGKILL, text
    for each in folders:
        monkeypatch.chdir(each)
        status, _, errors = normplugins(*arguments)
        assert status == 0, errors
    return [outcome(each, each / "run") for each in folders]


def outcome(folder: Path, directory: Path, result: Path | None = None) -> dict[str, Any]:
    """Everything that a run produced and that must not depend on how often it was interrupted.

    ``result``: its published record; None: the record in its own folder.
    """
    result = result or directory / "record.json"
    record = json.loads(result.read_text(encoding="utf-8"))
    last = load(directory / "checkpoint_last.pt")
    averaged = [load(path) for path in directory.glob("checkpoint_averaged.pt")]
    return {
        "model": last["model"],
        "optimizer": last["last_optimizer_state"],
        "iterator": last["extra_state"]["train_iterator"],
        "history": _without_clock(last["extra_state"]["history"]),
        "averaged": [(state["model"], _without_seal(state["extra_state"])) for state in averaged],
        "best": load(directory / "checkpoint_best.pt")["model"],
        "outputs": {path.name: path.read_bytes() for path in directory.glob("test.*")},
        "kept": {path.name: path.read_bytes() for path in result.parent.glob("*.gz")},
        "scores": record["scores"],
        "curves": _without_clock(record["curves"]),
    }


def _without_seal(extra_state: dict[str, Any]) -> dict[str, Any]:
    """Everything but the seal, which also covers the folder's name."""
    return {key: value for key, value in extra_state.items() if key != "seal"}


def load(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def unseal(path: Path) -> None:
    """Rewrite a checkpoint without its seal, as older versions wrote it."""
    state = load(path)
    del state["extra_state"]["seal"]
    torch.save(state, path)


def change_json(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file and remove its hash, as in files of older versions."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop(HASH, None)
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """The places where two nested results differ in any bit."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            found for i, pair in enumerate(zip(one, other, strict=True)) for found in differences(*pair, f"{where}/{i}")
        ]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
    else:
        same = type(one) is type(other) and one == other
    return [] if same else [where]


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        clock = ("seconds", "wall_seconds", "words_per_second")
        return {key: _without_clock(inner) for key, inner in value.items() if key not in clock}
    return [_without_clock(inner) for inner in value] if isinstance(value, list) else value


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Each file with its inode and modification time, which show whether it was rewritten."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


class MakesFolder:
    """Unpickling this creates a folder: stands for any code in a malicious checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def write_malicious(path: Path, proof: Path) -> None:
    """Write a checkpoint which, unpickled carelessly, creates the folder ``proof``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"cfg": None, "args": None, "model": {}, "extra_state": {"history": MakesFolder(proof)}}, path)


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """Refuse files of more than ``most`` bytes in this context; the limit stands for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
