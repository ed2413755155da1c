"""Setting up: what pip says when it fails, and the check that requirements.txt can be installed at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")


def write_wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    """A wheel of no modules, which may need another package."""
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
    """What sets the project up, and a registry `index` where engine 1 needs kernels 1, and there is a kernels 2."""
    root = tmp_path / "the project"
    (root / "scripts").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "setup.py", "scripts/check_requirements.sh"):
        shutil.copy(ROOT / name, root / name)
    write_wheel(root / "index/engine", "engine", "1", needs="kernels==1")
    for version in ("1", "2"):
        write_wheel(root / "index/kernels", "kernels", version)
    for package in (root / "index").iterdir():
        links = [f'<a href="{wheel.name}">{wheel.name}</a>' for wheel in sorted(package.iterdir())]
        (package / "index.html").write_text("\n".join(links))
    return root


def check(root: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the check in a project whose registry is its own `index`, unless the settings name another."""
    if not UV.exists():
        pytest.skip("pip install uv")
    (root / ".venv/bin").mkdir(parents=True)
    (root / ".venv/bin/uv").symlink_to(UV)
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment |= {"UV_DEFAULT_INDEX": (root / "index").as_uri()} | settings
    command = [root / "scripts/check_requirements.sh"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_pip_failing_shows_the_reason_and_stops_make(project: Path) -> None:
    (project / "requirements.txt").write_text("engine==1\nkernels==2\n")
    options = "--no-index --find-links index/engine --find-links index/kernels"
    command = ["make", "setup", f"PYTHON={sys.executable}", f"PIP_ARGS={options}"]
    made = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert made.returncode == 2
    assert "engine 1 depends on kernels==1" in made.stdout
    assert "ERROR: Cannot install" in made.stdout
    assert not (project / ".venv/.ready").exists()


def test_requirements_that_agree_pass_for_every_supported_python(project: Path) -> None:
    (project / "requirements.txt").write_text("engine==1\nkernels==1\n")
    checked = check(project)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == "requirements.txt resolves for Python 3.10 to 3.13\n"


def test_requirements_that_conflict_on_one_python_fail_there_with_the_reason(project: Path) -> None:
    (project / "requirements.txt").write_text('engine==1\nkernels==2; python_version == "3.12"\n')
    checked = check(project)
    assert checked.returncode == 1
    assert "requirements.txt does not resolve for Python 3.12:\n" in checked.stderr
    assert "engine depend on kernels==1" in checked.stderr


def test_wheels_of_this_machine_do_not_count(project: Path) -> None:
    write_wheel(project / "wheels", "local", "1")
    (project / "requirements.txt").write_text("local==1\n")
    checked = check(project, UV_FIND_LINKS=str(project / "wheels"))
    assert checked.returncode == 1
    assert "local was not found" in checked.stderr


@pytest.mark.parametrize(("settings", "status"), [({}, 0), ({"CI": "true"}, 1)])
def test_a_registry_out_of_reach_is_reported_and_in_ci_an_error(
    project: Path, settings: dict[str, str], status: int
) -> None:
    (project / "requirements.txt").write_text("engine==1\n")
    checked = check(project, UV_DEFAULT_INDEX="http://127.0.0.1:9/simple", **settings)
    assert checked.returncode == status
    assert ("is not checked: the package registry cannot be reached" in checked.stderr) == (status == 0)
    assert ("error sending request" in checked.stderr) == (status == 1)
