"""The shell scripts: they find the project's own environment, and leave paths to the caller."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize("environment", [True, False])
def test_a_script_calls_normplugins_from_where_the_caller_stands(tmp_path: Path, environment: bool) -> None:
    clone, here = tmp_path / "a clone", tmp_path / "here"
    shutil.copytree(SCRIPTS, clone / "scripts")
    here.mkdir()
    own = clone / ".venv" / "bin" if environment else tmp_path / "installed"
    own.mkdir(parents=True)
    program = own / "normplugins"  # it says where it runs and with what
    program.write_text('#!/bin/sh\npwd -P\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    path = os.environ["PATH"] if environment else f"{own}{os.pathsep}{os.environ['PATH']}"
    relative = os.path.relpath(clone / "scripts" / "run.sh", here)
    done = subprocess.run(
        ["bash", relative, "custom", "pn", "corpus.train=my/a b"],
        cwd=here,
        env=os.environ | {"PATH": path, "CDPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(here.resolve()), "run", "custom", "norm=pn", "corpus.train=my/a b"]
