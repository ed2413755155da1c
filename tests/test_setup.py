"""The setup: pip's reason reaches the user, and requirements.txt is checked against a package registry."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.helpers.compiler import needs_compiler

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")


def write_wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    """Write a wheel without modules; ``needs`` is another package that it requires."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        required = f"Requires-Dist: {needs}\n" if needs else ""
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files of the setup, and a registry ``index`` where engine 1 needs kernels 1 and kernels 2 exists too."""
    root = tmp_path / "the project"
    (root / "scripts").mkdir(parents=True)
    for name in ("Makefile", "setup.py", "scripts/check_requirements.sh"):
        shutil.copy(ROOT / name, root / name)
    write_pyproject(root, "engine")
    write_wheel(root / "index/engine", "engine", "1", needs="kernels==1")
    for version in ("1", "2"):
        write_wheel(root / "index/kernels", "kernels", version)
    for package in (root / "index").iterdir():
        links = [f'<a href="{wheel.name}">{wheel.name}</a>' for wheel in sorted(package.iterdir())]
        (package / "index.html").write_text("\n".join(links))
    return root


def write_pyproject(root: Path, *dependencies: str) -> None:
    required = '[project]\nname = "it"\nversion = "1"\nrequires-python = ">=3.10,<3.14"\n'
    (root / "pyproject.toml").write_text(f"{required}dependencies = {list(dependencies)}\n")


def check(root: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the check in a project whose registry is its own ``index``, unless the settings name another."""
    if not UV.exists():
        pytest.skip("pip install uv")
    (root / ".venv/bin").mkdir(parents=True, exist_ok=True)
    if not (root / ".venv/bin/uv").exists():
        (root / ".venv/bin/uv").symlink_to(UV)
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment |= {"UV_DEFAULT_INDEX": (root / "index").as_uri()} | settings
    command = [root / "scripts/check_requirements.sh", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def pins(root: Path) -> list[str]:
    return [line for line in (root / "requirements.txt").read_text().splitlines() if not line.startswith("#")]


STAND_IN = rf"""#!/bin/sh
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;  # a real one takes seconds
  *) exec {shlex.quote(sys.executable)} "$@" ;;
esac
"""


@needs_compiler
def test_pip_failing_shows_the_reason_and_stops_make(project: Path) -> None:
    (project / "requirements.txt").write_text("engine==1\nkernels==2\n")
    (project / "python").write_text(STAND_IN)
    (project / "python").chmod(0o755)
    options = "--dry-run --no-index --find-links index/engine --find-links index/kernels"
    command = ["make", "setup", f"PYTHON={project / 'python'}", f"PIP_ARGS={options}"]
    made = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert made.returncode == 2
    assert "engine 1 depends on kernels==1" in made.stdout
    assert "ERROR: Cannot install" in made.stdout
    assert not (project / ".venv/.ready").exists()


def test_a_python_that_pyproject_does_not_allow_stops_make(project: Path) -> None:
    (project / "pyproject.toml").write_text('requires-python = ">=3.8,<3.9"\n')
    (project / "requirements.txt").touch()
    command = ["make", "setup", f"PYTHON={sys.executable}"]
    made = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert made.returncode == 2
    assert "Python >=3.8,<3.9 is needed, but " in made.stderr


@pytest.mark.slow
def test_requirements_are_written_with_what_they_need_and_then_pass(project: Path) -> None:
    written = check(project, "--write")
    assert (written.returncode, written.stderr) == (0, "")
    assert pins(project) == ["engine==1", "kernels==1"]
    time = (project / "requirements.txt").stat().st_mtime_ns
    checked = check(project)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert (project / "requirements.txt").stat().st_mtime_ns == time  # a newer file would make `make` install again
    assert checked.stdout == "requirements.txt resolves for Python 3.10 to 3.13\n"


@pytest.mark.slow
def test_a_version_that_still_fits_is_kept(project: Path) -> None:
    write_pyproject(project, "kernels")
    (project / "requirements.txt").write_text("kernels==1\n")
    assert check(project, "--write").returncode == 0
    assert pins(project) == ["kernels==1"]


@pytest.mark.slow
def test_a_dependency_that_is_not_pinned_fails_and_is_named(project: Path) -> None:
    (project / "requirements.txt").write_text("engine==1\nkernels==1\n")
    write_pyproject(project, "kernels")
    checked = check(project)
    assert checked.returncode == 1
    assert "\n-engine==1\n" in checked.stderr
    assert checked.stderr.endswith("run `make requirements` and commit the result\n")


@pytest.mark.slow
def test_requirements_that_conflict_on_one_python_fail_with_the_reason(project: Path) -> None:
    write_pyproject(project, "engine", "kernels==2; python_version == '3.12'")
    checked = check(project)
    assert checked.returncode == 1
    assert checked.stderr.startswith("the dependencies in pyproject.toml do not resolve:\n")
    assert "kernels==1" in checked.stderr


@pytest.mark.slow
def test_wheels_of_this_machine_do_not_count(project: Path) -> None:
    write_wheel(project / "wheels", "local", "1")
    write_pyproject(project, "local")
    checked = check(project, UV_FIND_LINKS=str(project / "wheels"))
    assert checked.returncode == 1
    assert "local was not found" in checked.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "status"), [({}, 0), ({"CI": "true"}, 1)])
def test_an_unreachable_registry_is_reported_and_in_ci_an_error(
    project: Path, settings: dict[str, str], status: int
) -> None:
    checked = check(project, UV_DEFAULT_INDEX="http://127.0.0.1:9/simple", UV_HTTP_RETRIES="0", **settings)
    assert checked.returncode == status
    assert ("is not checked: the package registry cannot be reached" in checked.stderr) == (status == 0)
    assert ("error sending request" in checked.stderr) == (status == 1)


def test_ci_runs_on_every_python_that_pyproject_allows() -> None:
    first, end = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text()).groups()
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(int(first), int(end))]
    assert any(step.get("run") == "bash .ci/run" for step in job["steps"])


def test_pre_commit_uses_the_pinned_ruff() -> None:
    (hooks,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert f"ruff=={hooks['rev'].removeprefix('v')}" in pins(ROOT)
