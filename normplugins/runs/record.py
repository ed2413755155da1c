"""The record of a run: one JSON file in its folder with everything that its scores depend on."""

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

import torch

import normplugins
from normplugins import norms
from normplugins.utils.files import sha256
from normplugins.utils.paths import checkout
from normplugins.utils.processor import processor_name

FORMAT = 2
"""The format of records."""
CODE = ("normplugins", "configs", ":(exclude)configs/campaign", "setup.py", "pyproject.toml", "requirements.txt")
"""The files of a checkout on which a score can depend, as git's pathspecs."""
PACKAGES = ("torch", "fairseq", "hydra-core", "omegaconf", "sacrebleu", "sentencepiece", "subword-nmt", "sacremoses")


def hardware(cpu: bool, processes: int, threads: int | None = None) -> dict[str, Any]:
    """Return the hardware of a run, with memory in GB and the threads of a process (None: the threads of this one)."""
    gpus = [] if cpu else [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())][:processes]
    return {
        "device": f"{processes} x {gpus[0]}" if gpus else "CPU",
        "cpu": f"{os.cpu_count()} x {processor_name()}",
        "threads": threads or torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "gpus": gpus,
        "processes": processes,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, of this project, and of the packages that a score depends on."""
    found = {"python": platform.python_version(), "normplugins": normplugins.__version__}
    others = {entry.dist.name for entry in entry_points(group=norms.__name__) if entry.dist}  # they register norms
    for package in (*PACKAGES, *sorted(others)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # not installed, so not used
            continue
    return found


@cache
def kernels() -> dict[str, str]:
    """Return the sha256 of each compiled kernel by its path in this package, as of the first call."""
    root = Path(normplugins.__file__).parent
    return {path.relative_to(root).as_posix(): sha256(path) for path in sorted(root.rglob("*.so"))}


def load() -> list[float]:
    """Return the machine's load averages over the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


@cache
def git_commit(*more: str) -> str | None:
    """Return the commit of the running code, with ``+changes`` if files of ``CODE`` or ``more`` differ from it.

    For an installed wheel it is the version, such as ``v0.2.0``; None if the checkout is no git repository, or git
    refuses to read it. The answer is cached, because a process continues with the code that it started with.
    """
    root = checkout()
    if root is None:
        return f"v{normplugins.__version__}"
    # Untracked files count too, because norms and configs are discovered without being listed.
    status = ["status", "--porcelain", "--untracked-files=all", "--", *CODE, *more]
    try:
        commit, changed = (
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], status)
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changed else commit


def uncommitted(commit: object) -> str:
    """Return why a record with this ``git_commit`` should not be published; "" if its code is committed."""
    if commit is None:
        return "code outside a git repository, or in a repository that git refuses to read (safe.directory)"
    text = str(commit)
    if re.fullmatch(r"v[\w.]*\.dev\d+", text):
        return f"an installed package that is not a release ({text})"
    return f"code that is not committed ({text[:7]} with changes)" if text.endswith("+changes") else ""


def without_absolute_paths(value: Any) -> Any:
    """Return a copy of a record in which each absolute path is only the name of its file or folder."""
    if isinstance(value, dict):
        return {key: without_absolute_paths(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_absolute_paths(each) for each in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
