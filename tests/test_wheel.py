"""The wheel: it holds configs and kernels, and runs from a read-only folder with no repository around it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.compiler import needs_compiler
from tests.helpers.runs import PATIENCE, REPOSITORY, TINY

pytestmark = [pytest.mark.slow, needs_compiler]
SOURCES = ("configs", "normplugins", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources without build isolation and without a network."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(source, folder / name)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder / "dist")]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(folder)], check=True, timeout=PATIENCE)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the installed wheel that nobody may write to (root still may)."""
    folder = tmp_path_factory.mktemp("installed") / "site"
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True, timeout=PATIENCE)
    everything = [folder, *folder.rglob("*")]
    for path in everything:
        path.chmod(path.stat().st_mode & ~0o222)
    yield folder
    for path in everything:
        path.chmod(path.stat().st_mode | 0o200)


def normplugins(installed: Path, folder: Path, *arguments: str, prefix: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``python -m normplugins`` in ``folder`` with the installed wheel; ``prefix`` is code that runs before."""
    code = f"{prefix}\nimport runpy; runpy.run_module('normplugins', run_name='__main__', alter_sys=True)"
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_the_wheel_holds_every_config_and_both_kernels(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"normplugins/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "configs").rglob("*.yaml")}
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    kernels = {f"normplugins/norms/backends/cpu/_kernels{suffix}", f"normplugins/models/_dropout{suffix}"}
    assert configs | kernels <= names
    assert not [name for name in names if name.startswith(("tests", "configs", "build"))]


def test_an_installed_wheel_trains_and_records_a_run_from_any_folder(installed: Path, tmp_path: Path) -> None:
    before = set(installed.rglob("*"))
    short = ["run_dir=run", "optimization.max_update=2", "evaluate.max_length_b=2"]
    done = normplugins(installed, tmp_path, "run", "demo", "norm=pn", "tracking=none", *TINY, *short)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["git_commit"] == f"v{record['versions']['normplugins']}"
    assert len(record["files"]["kernels"]) == 2
    assert set(installed.rglob("*")) == before


def test_without_fairseq_the_norms_work_and_a_run_says_how_to_install_it(installed: Path, tmp_path: Path) -> None:
    hide = """
import sys
class Hidden:
    def find_spec(self, name, path, target=None):
        if name == "fairseq":
            raise ModuleNotFoundError("No module named 'fairseq'", name=name)
sys.meta_path.insert(0, Hidden())
"""
    norms = "import torch; from normplugins.norms import *; build_norm(NormConfig(name='pn'), 8)(torch.ones(2, 3, 8))"
    done = normplugins(installed, tmp_path, "run", "demo", prefix=f"{hide}\n{norms}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("pip install --no-deps fairseq==0.12.2")
