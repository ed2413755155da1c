"""Tiny trained runs that many tests look at."""

import hashlib
import os
import shutil
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from normplugins.utils.worker_processes import available_cores
from tests.helpers.processes import pair  # noqa: F401  (a fixture)
from tests.helpers.runs import REPOSITORY, TINY, TINY_LM, Trained, succeed, write_text

# These files take longest, so they begin first, and no worker waits for one of them at the end.
LONGEST = ("test_distributed", "test_campaign", "test_gpu_lease", "test_run", "test_every_norm", "test_torch_compile")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Return one more worker than there are cores, because many tests wait for processes that they started."""
    return int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") or available_cores() + 1)


@pytest.hookimpl(tryfirst=True)  # before the marks choose the tests
def pytest_collection_modifyitems(items):
    """Mark the tests of trained runs as slow, and move the longest files to the front, in the order of ``LONGEST``."""
    for item in items:
        if "train_once" in item.fixturenames:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


# Tests bring their own downloads: a mirror of the user's would replace the small texts by the real ones. The few tests
# of real corpora ask for it, also in the worker processes of xdist, which inherit this variable.
if "NORMPLUGINS_MIRROR" in os.environ:
    os.environ["NORMPLUGINS_REAL_CORPORA"] = os.environ.pop("NORMPLUGINS_MIRROR")

# Triton reads this once, when it is imported: without a GPU, its kernels run in its interpreter in every test process.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def one_thread():
    """Begin each test with one thread: on models this small, threads only wait for each other."""
    torch.set_num_threads(1)  # a run that an earlier test made in this process may have taken all cores


@pytest.fixture(scope="session")
def train_once(request, tmp_path_factory):
    """Trains ``normplugins run`` with these arguments, once for all workers of xdist: each has a copy of its own."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if hasattr(request.config, "workerinput") else own  # only a worker of xdist has that attribute

    @cache
    def train(*arguments, mirror=""):
        run = shared / hashlib.sha256(repr(arguments).encode()).hexdigest()[:12]
        printed = run.with_suffix(".txt")
        with FileLock(run.with_suffix(".lock")):
            if not printed.exists():
                run.mkdir(exist_ok=True)
                where = ["tracking=none", "run_dir=run"]
                said = succeed(["run", *arguments, *where], run, NORMPLUGINS_MIRROR=mirror)
                printed.write_text(said, encoding="utf-8")
        copy = shutil.copytree(run, tmp_path_factory.mktemp("trained"), dirs_exist_ok=True)
        return Trained(copy, copy / "run", printed.read_text(encoding="utf-8"))

    return train


@pytest.fixture(scope="session")
def trained(train_once):
    """A tiny run with PN, without interruption."""
    return train_once("demo", "norm=pn", *TINY)


@pytest.fixture
def at_trained(trained, monkeypatch):
    """Goes to the folder where the command of ``trained`` was given."""
    monkeypatch.chdir(trained.folder)


@pytest.fixture(scope="session")
def layer_norm(train_once):
    """The same run with LN."""
    return train_once("demo", "norm=ln", *TINY)


@pytest.fixture(scope="session")
def made_up_text(tmp_path_factory):
    """A folder that serves as the mirror of a small text in the place of PTB."""
    folder = tmp_path_factory.mktemp("text")
    write_text(folder)
    return folder


@pytest.fixture(scope="session")
def train_language_model(train_once, made_up_text):
    """Trains ``normplugins run ptb``, tiny, with these overrides; the same ones give the same run."""
    return partial(train_once, "ptb", *TINY_LM, mirror=str(made_up_text))


@pytest.fixture(scope="session")
def tensor_lm(train_language_model):
    """The tensorized transformer as published: not causal."""
    return train_language_model("norm=pn")


@pytest.fixture(scope="session")
def transformer_lm(train_language_model):
    """A causal transformer."""
    return train_language_model("norm=ln", "architecture=transformer", "model.attention_heads=2")


@pytest.fixture
def normplugins(capsys):
    """Calls the command line in this process: its exit status, stdout and stderr."""
    from normplugins.cli import main

    threads = torch.get_num_threads()

    def call(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return (status, *capsys.readouterr())

    yield call
    torch.set_num_threads(threads)


@pytest.fixture
def accepted(normplugins):
    """Calls a command line that must succeed, and returns its stdout."""

    def call(*arguments):
        status, said, errors = normplugins(*arguments)
        assert status == 0, errors
        return said

    return call


@pytest.fixture
def refused(normplugins):
    """Calls a command line that must be refused with status 1 and one line, and returns that line."""

    def call(*arguments):
        status, _, errors = normplugins(*arguments)
        assert status == 1
        lines = errors.splitlines()
        assert len(lines) == 1, errors
        assert lines[0].startswith("normplugins: ")
        return lines[0]

    return call


@pytest.fixture
def at_home(made_up_text, monkeypatch):
    """Goes to a run's folder, where its command was given."""

    def go(folder):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("NORMPLUGINS_MIRROR", str(made_up_text))

    return go


@pytest.fixture
def real_corpora(monkeypatch):
    """Finds a download in the user's NORMPLUGINS_MIRROR, or in shared/data beside the checkout; skips without it."""
    from normplugins.utils.download import find_in_mirror

    folder = Path(os.environ.get("NORMPLUGINS_REAL_CORPORA", REPOSITORY.parent / "shared" / "data"))

    def find(file, corpus):
        if folder.is_dir():
            monkeypatch.setenv("NORMPLUGINS_MIRROR", str(folder))
        return find_in_mirror(file, corpus) or pytest.skip(f"no {file}: neither NORMPLUGINS_MIRROR nor {folder} has it")

    return find
