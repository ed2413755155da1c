"""The GPU lease: all pieces run through its script, on a CPU with tiny sizes, and what comes back is small."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
import yaml

from benchmarks.measure import read
from benchmarks.side_by_side import enough_processes, updates_per_second
from tests.helpers.corpora import iwslt_members, tar
from tests.helpers.runs import REPOSITORY

# What an earlier lease had done, and brought back: a start of Python each, which takes longer than the work itself.
BEFORE = ("gpu_tests", "triton_tests", "norms_with_kernels", "processes_ptb", "processes_iwslt14")
SOURCE = ("benchmarks", "tests/norms", "tests/helpers", "tests/conftest.py", "tests/__init__.py", "pyproject.toml")


def copy(name, target):
    source, target = REPOSITORY / name, target / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.fixture(scope="module")
def lease(tmp_path_factory, made_up_text):
    """Call the script in a folder with a pack that has no wheels: this environment stands for them."""
    root = tmp_path_factory.mktemp("lease")
    copy("scripts/gpu_lease.sh", root)
    copy("configs/campaign", root)
    for name, seed in (("ptb", 2), ("iwslt14", 1)):  # two runs at the same time, and one
        path = root / "configs" / "campaign" / f"lease_{name}.yaml"
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
        (block,) = plan["blocks"]
        plan["blocks"] = [{**block, "cells": block["cells"][:seed]}]
        path.write_text(yaml.safe_dump(plan, default_flow_style=None, width=1000), encoding="utf-8")
    (root / "gpu_pack" / "wheels").mkdir(parents=True)
    for name in SOURCE:
        copy(name, root / "gpu_pack" / "source")
    np.savez(root / "gpu_pack" / "train_lengths.npz", **dict.fromkeys(("de", "en"), np.full(64, 5)))
    jobs = json.dumps({"ptb": {"jobs": 2}, "iwslt14": {"jobs": 1}}).encode()
    earlier = {"results/side_by_side.json": jobs, **{f"done/{name}": b"" for name in BEFORE}}
    tar(root / "gpu_pack" / "records.tar.gz", earlier)
    mirror = shutil.copytree(made_up_text, root / "mirror")
    tar(mirror / "de-en.tgz", iwslt_members())
    settings = {
        "PYTHON": sys.executable,
        "LEASE_REHEARSAL": "1",
        "LEASE_MINUTES": "30",
        "NORMPLUGINS_MIRROR": str(mirror),
    }

    def call(*arguments, **more):
        done = subprocess.run(
            ["bash", root / "scripts" / "gpu_lease.sh", *arguments],
            env=os.environ | settings | more,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    return root, call


@pytest.mark.slow
def test_all_pieces_run_once_and_leave_small_files(lease):
    root, call = lease
    out = root / "out"
    pieces = ("1", "2", "3", "4", "5", "6")
    status, said = call(*pieces, OUT=str(out))
    assert status == 0, said
    assert all(f"{name}: done\n" in said for name in BEFORE), said
    assert {path.name for path in out.iterdir()} == {"records.tar.gz", "benchmarks.csv", "side_by_side.json"}
    with tarfile.open(out / "records.tar.gz") as archive:
        names = archive.getnames()
    records = [name for name in names if name.startswith("results/runs/") and name.endswith("seed1.json")]
    assert sorted(name.split("/")[2] for name in records) == ["iwslt14", "ptb", "ptb"]
    assert "logs/machine.log" in names
    assert sum(path.stat().st_size for path in out.iterdir()) < 2**20
    measured = read(out / "benchmarks.csv")
    assert set(measured["benchmark"]) == {"norm", "step", "decode"}
    assert all("lengths=train_lengths.npz" in case for case in measured.query("benchmark != 'norm'")["case"])
    status, said = call(*pieces)
    assert (status, said.count(": done\n"), "==" in said) == (0, 11, False), said


@pytest.mark.slow
def test_a_call_without_time_says_so(lease):
    root, call = lease
    assert call("7")[0] == 2
    (root / "gpu_work" / "done" / "decode").unlink(missing_ok=True)
    status, said = call("6", LEASE_MINUTES="1")
    assert (status, "decode: the time is up" in said) == (75, True), said


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
