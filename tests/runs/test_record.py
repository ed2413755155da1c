"""What a record holds of the machine that wrote it."""

import pytest

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
