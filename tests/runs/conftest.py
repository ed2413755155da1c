"""A run that a test may change."""

import shutil

import pytest


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of a trained run's folder, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(trained.directory, tmp_path / "run")
