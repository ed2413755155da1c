"""What a record holds of the machine that wrote it."""

import re
import subprocess

import pytest

from normplugins.runs import record
from normplugins.runs.record import uncommitted
from tests.helpers.corpora import write_user_corpus
from tests.helpers.runs import MODEL

SHORT = [
    "hardware=cpu",
    "hardware.threads=1",
    "tracking=none",
    "dataset.max_tokens=400",
    "lr_scheduler.warmup_updates=2",
    "optimization.max_update=2",
    "evaluate.average=1",
    "evaluate.max_length_b=5",
]


def test_code_without_a_commit_is_not_published():
    assert uncommitted("0123abc+changes")
    assert uncommitted("v0.5.0.dev0")
    assert not uncommitted("v0.5.0.dev0+g0123abc")
    assert not uncommitted("v0.4.0")


def test_the_commit_says_whether_the_code_has_changed(tmp_path, monkeypatch):
    """The code's files alone count; new ones do, because norms are found without being listed."""
    (code := tmp_path / "normplugins" / "norm.py").parent.mkdir()
    code.write_text("eps = 1\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "First"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(record, "checkout", lambda: tmp_path)

    def changed() -> bool:
        record.git_commit.cache_clear()
        commit = record.git_commit()
        assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", commit)
        return commit.endswith("+changes")

    (tmp_path / "notes.txt").touch()
    assert not changed()
    code.write_text("eps = 2\n")
    assert changed()
    code.write_text("eps = 1\n")
    assert not changed()
    (code.parent / "new.py").touch()
    assert changed()
    record.git_commit.cache_clear()


@pytest.mark.slow
def test_a_record_holds_no_absolute_path(accepted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = write_user_corpus(tmp_path / "text")
    corpus = [f"corpus.train={text / 'train'}", "corpus.valid_size=10", "corpus.test_size=12", "corpus.subword_size=40"]
    places = [f"data_dir={tmp_path / 'data'}"]
    run = ["run", "custom", "experiment=mine", "norm=ln", *SHORT, *MODEL, *places, *corpus]
    accepted(*run, f"run_dir={tmp_path / 'learned'}")
    codes = next((tmp_path / "data").rglob("codes"))
    merges = len(codes.read_text(encoding="utf-8").splitlines()) - 1
    own_codes = [f"corpus.codes={codes}", f"corpus.subword_size={merges}"]
    accepted(*run, *own_codes, f"run_dir={tmp_path / 'given'}")
    records = [path.read_text(encoding="utf-8") for path in tmp_path.glob("*/record.json")]
    assert len(records) == 2
    assert not [record for record in records if str(tmp_path) in record or '"/' in record]
    assert all('"corpus.train": "train"' in record for record in records)
