"""scripts/campaign.sh: one clone at the tag, one campaign in the background, and copies of finished records."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "campaign.sh"
# A stand-in for the command: it publishes one record, reports that it has started, and waits until it is ended.
PROGRAM = """#!/bin/sh
job=$(echo "$PWD" | sed -n 's,.*/jobs/,,p')
mkdir -p results/runs/demo/ln runs/demo/ln$job
echo "$@" > "results/runs/demo/ln/seed$job.json"
git log --format=%s -1 > campaign
echo ready > "$READY$job"
read -r line < "$READY$job"
"""
SETUP = """setup:
\tmkdir -p .venv/bin
\tcp program .venv/bin/normplugins
\tchmod +x .venv/bin/normplugins
\ttouch .venv/.ready
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small project with the script, a tag, and a commit after it."""
    project = tmp_path / "a project"
    (project / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPT, project / "scripts")
    (project / "Makefile").write_text(SETUP)
    (project / "program").write_text(PROGRAM)
    (project / "configs").mkdir()
    (project / "configs" / "demo.yaml").touch()
    (project / ".gitignore").write_text("/.venv/\n/results/\n/campaign*\n")
    git(project, "init", "--quiet")
    commit(project, "frozen")
    git(project, "tag", "v0.2.0")
    commit(project, "later")
    for name in ("ready", "ready0", "ready1"):
        os.mkfifo(tmp_path / name)
    return project


def git(project: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=project, check=True, capture_output=True)


def commit(project: Path, message: str) -> None:
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--allow-empty", "--message", message)


def call(project: Path, *arguments: str, tag: str = "v0.2.0", jobs: int = 1) -> tuple[int, str]:
    settings = {"READY": str(project.parent / "ready"), "CAMPAIGN_TAG": tag, "CAMPAIGN_JOBS": str(jobs)}
    done = subprocess.run(
        ["bash", str(project / "scripts" / "campaign.sh"), *arguments],
        cwd=project.parent,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_it_runs_once_in_a_clone_and_copies_its_records(checkout: Path) -> None:
    clone = checkout.parent / "normplugins-campaign-v0.2.0"
    record = checkout / "results" / "runs" / "demo" / "ln" / "seed.json"
    before = checkout / "results" / "runs" / "demo" / "bn" / "seed1.json"
    before.parent.mkdir(parents=True)
    before.write_text("published before the clone was made")
    try:
        status, said = call(checkout, "start", "configs/campaign/mine.yaml")
        assert (status, "runs in" in said) == (0, True), said
        assert (checkout.parent / "ready").read_text() == "ready\n"  # waits for the program in the background
        assert (clone / "campaign").read_text() == "frozen\n"
        assert (clone / before.relative_to(checkout)).read_text() == before.read_text(), "so that it is not run again"
        status, said = call(checkout)
        assert (status, "is running in" in said) == (0, True), said
        assert record.read_text() == "campaign configs/campaign/mine.yaml\n"
        record.write_text("published before")
        status, said = call(checkout, "collect")
        assert (status, "not replaced" in said, record.read_text()) == (0, True, "published before"), said
        assert call(checkout, "pause")[0] == call(checkout, "resume")[0] == call(checkout, "pause")[0] == 0
    finally:
        status, said = call(checkout, "stop")
    assert status == 0, said
    status, said = call(checkout, "pause")
    assert (status, "no campaign is running" in said) == (1, True), said


@pytest.mark.skipif(shutil.which("taskset") is None, reason="runs are not bound to cores here")
def test_several_campaigns_share_the_runs_and_results_of_the_clone(checkout: Path) -> None:
    clone = checkout.parent / "normplugins-campaign-v0.2.0"
    try:
        status, said = call(checkout, "start", "configs/campaign/mine.yaml", jobs=2)
        assert status == 0, said
        for job in (0, 1):
            assert (checkout.parent / f"ready{job}").read_text() == "ready\n"
            assert (clone / "runs" / "demo" / f"ln{job}").is_dir()
    finally:
        status, said = call(checkout, "stop")
    assert status == 0, said
    records = checkout / "results" / "runs" / "demo" / "ln"
    assert sorted(path.name for path in records.iterdir()) == ["seed0.json", "seed1.json"]
    assert call(checkout, "pause")[0] == 1, "both have ended"


def test_a_clone_at_another_commit_is_refused(checkout: Path) -> None:
    clone = checkout.parent / "normplugins-campaign-v0.2.0"
    git(checkout.parent, "clone", "--quiet", str(checkout), str(clone))
    (clone / ".venv").mkdir()
    (clone / ".venv" / ".ready").touch()
    status, said = call(checkout)
    assert (status, "is not at v0.2.0" in said) == (1, True), said
    assert not (clone / "campaign.pid").exists()


def test_another_tag_is_never_replaced_by_the_commit_of_the_first(checkout: Path) -> None:
    status, said = call(checkout, tag="v9.9.9")
    assert (status, "no tag v9.9.9: git fetch --tags" in said) == (1, True), said
    assert not (checkout.parent / "normplugins-campaign-v9.9.9").exists()


def test_an_unknown_action_prints_the_known_ones(checkout: Path) -> None:
    status, said = call(checkout, "begin")
    assert (status, "start|collect|show|pause|resume|stop" in said) == (2, True), said
