"""The GPU lease: a piece runs through its script on a CPU, and the program accepts the commands of all pieces."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from importlib import import_module

import pytest
import yaml

from benchmarks.measure import parse as parse_options
from benchmarks.side_by_side import enough_processes, updates_per_second
from normplugins.cli import parse
from normplugins.runs.campaign import read_plan
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config, expand_sweep
from tests.helpers.corpora import tar
from tests.helpers.runs import REPOSITORY

STAND_IN = r"""#!/bin/sh
case "$1 $2" in
  "-m venv") mkdir -p env/bin && cp "$0" env/bin/python ;;
  "-m pip" | "-c import benchmarks"*) ;;
  "-c import sysconfig"*) echo env ;;  # where the script writes a file
  "-c from normplugins"*) echo ln,pn ;;  # the norms
  "-m "*) shift; printf '%s\0' "$@" >"{noted}/$$"
    [ "$2" != campaign ] || mkdir "{noted}.$3" 2>/dev/null || exit 75 ;;  # as if the other process had its runs
  *) exec "{python}" "$@" ;;
esac
"""
SOURCE = ("benchmarks", "tests/norms", "tests/helpers", "tests/conftest.py", "tests/__init__.py", "pyproject.toml")


def copy(name, target):
    source, target = REPOSITORY / name, target / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def call_script(root, *arguments, **settings):
    done = subprocess.run(
        ["bash", root / "scripts" / "gpu_lease.sh", *arguments],
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def lease(tmp_path_factory, made_up_text):
    """Call the script in a folder with a pack that has no wheels: this environment stands for them."""
    root = tmp_path_factory.mktemp("lease")
    copy("scripts/gpu_lease.sh", root)
    copy("configs/campaign", root)
    path = root / "configs" / "campaign" / "lease_ptb.yaml"
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    (block,) = plan["blocks"]
    plan["blocks"] = [{**block, "cells": block["cells"][:1]}]
    plan["overrides"] = [each.replace("hardware.threads=2", "hardware.threads=1") for each in plan["overrides"]]
    path.write_text(yaml.safe_dump(plan, default_flow_style=None, width=1000), encoding="utf-8")
    (root / "gpu_pack" / "wheels").mkdir(parents=True)
    for name in SOURCE:
        copy(name, root / "gpu_pack" / "source")
    jobs = json.dumps({"ptb": {"jobs": 1}}).encode()
    tar(root / "gpu_pack" / "records.tar.gz", {"results/side_by_side.json": jobs})
    settings = {"PYTHON": sys.executable, "LEASE_REHEARSAL": "1", "LEASE_MINUTES": "30"}

    def call(*arguments, **more):
        return call_script(root, *arguments, **(settings | more), NORMPLUGINS_MIRROR=str(made_up_text))

    return root, call


@pytest.mark.slow
def test_a_piece_runs_once_and_leaves_small_files(lease):
    root, call = lease
    out = root / "out"
    status, said = call("4", OUT=str(out))
    assert status == 0, said
    assert {path.name for path in out.iterdir()} == {"records.tar.gz", "side_by_side.json"}
    with tarfile.open(out / "records.tar.gz") as archive:
        names = archive.getnames()
    records = [name for name in names if name.startswith("results/runs/ptb/") and name.endswith("seed1.json")]
    assert len(records) == 1
    assert "logs/machine.log" in names
    assert sum(path.stat().st_size for path in out.iterdir()) < 2**20
    assert call("4") == (0, "ptb: done\n")
    (root / "gpu_work" / "done" / "ptb").unlink()
    status, said = call("4", LEASE_MINUTES="1")
    assert (status, "ptb: the time is up" in said) == (75, True), said


@pytest.mark.slow
def test_the_first_call_ends_at_a_missing_package(lease, tmp_path):
    root = shutil.copytree(lease[0], tmp_path / "lease", ignore=shutil.ignore_patterns("gpu_work"))
    missing = "raise ModuleNotFoundError('there is no joblib')"  # which only sacremoses needs, and only to tokenize
    (root / "gpu_pack" / "source" / "joblib.py").write_text(missing)
    status, said = call_script(root, "4", PYTHON=sys.executable, LEASE_REHEARSAL="1")
    assert status == 1
    assert said.endswith("there is no joblib\n")


@pytest.mark.slow
@pytest.mark.parametrize("rehearsal", ["", "1"])
def test_the_program_accepts_the_commands_of_all_pieces(tmp_path, rehearsal):
    """A stand-in for Python notes every module that it is to run, and Python computes what the script asks for."""
    copy("scripts/gpu_lease.sh", tmp_path)
    copy("configs/campaign", tmp_path)
    for name in ("source", "wheels"):
        (tmp_path / "gpu_pack" / name).mkdir(parents=True)
    stand_in, noted = tmp_path / "python", tmp_path / "noted"
    noted.mkdir()
    stand_in.write_text(STAND_IN.format(python=sys.executable, noted=noted))
    stand_in.chmod(0o755)
    assert call_script(tmp_path, "7")[0] == 2
    settings = {"PYTHON": str(stand_in), "LEASE_REHEARSAL": rehearsal, "LEASE_MINUTES": "30"}
    status, said = call_script(tmp_path, *"123456", **settings)
    assert status == 0, said
    commands = [path.read_text().split("\0")[:-1] for path in noted.iterdir()]
    assert {command[0] for command in commands} == {
        "normplugins", "pytest", *(f"benchmarks.{name}" for name in ("norm", "side_by_side", "step", "decode"))
    }  # fmt: skip
    plans = [command[2] for command in commands if command[:2] == ["normplugins", "campaign"]]
    assert {*plans} == {"ptb.yaml", "iwslt14.yaml"}
    for plan in {*plans} if rehearsal else ():  # otherwise they are the project's plans
        assert read_plan(tmp_path / "gpu_work" / plan)
    for module, *words in commands:
        if module == "normplugins":
            parsed = parse(words)
            if words[0] == "run":
                check(compose_config(parsed.experiment, [*expand_sweep(parsed.overrides)[0], "hardware=cpu"]))
        elif module != "pytest":
            parse_options(import_module(module).PARSER, words)


def test_fewer_processes_are_taken_where_more_do_not_pay():
    assert enough_processes({1: 10.0, 2: 18.0, 4: 29.0, 8: 30.0}) == 4
    assert enough_processes({1: 10.0, 2: 9.0}) == 1


@pytest.mark.slow
def test_updates_are_counted_from_the_moment_when_all_processes_are_ready():
    model = ["model.layers=1", "model.embed_dim=16", "model.ffn_embed_dim=16"]
    overrides = ["hardware=cpu", "dataset.batch_size=2", *model]
    ready = []
    start = threading.Barrier(1, action=lambda: ready.append(True))
    assert updates_per_second("ptb", overrides, 1, 0.2, start) > 0
    assert ready == [True]
