"""``normplugins report --local``: the local runs, marked, beside the published ones."""

import re
import shutil
from pathlib import Path

import pytest

from normplugins.report.page import report_local
from normplugins.utils.errors import UserError
from tests.helpers.corpora import tree
from tests.helpers.records import put, put_run, record


@pytest.mark.slow
def test_runs_at_hand_stand_beside_the_published_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, results = tmp_path / "runs", tmp_path / "results"
    put(results, record("multi30k", "ln", metrics={"bleu": 34.0}, floor=4.0))
    put(results, record("iwslt14", "ln", metrics={"bleu": 35.0}))
    for seed, bleu in ((1, 36.0), (2, 37.0)):
        put_run(runs, record("multi30k", "ln", seed, metrics={"bleu": bleu}, floor=4.0))
    run = put_run(runs, record("multi30k", "pn", metrics={"bleu": 38.0}, floor=4.0))
    shutil.move(run, runs / "a trial")  # a run may have any folder
    before = tree(results)
    report_local(runs, results)
    said = capsys.readouterr().out
    rows = [re.split(r"\s{2,}", line.strip())[:2] for line in said.splitlines()]
    assert [row for row in rows if row[0].startswith(("ln", "pn"))] == [
        ["ln", "34.00"],
        ["ln, local", "36.50"],
        ["pn, local", "38.00"],
    ]
    assert "iwslt14" not in said
    assert f"written: {runs / 'figures' / 'multi30k.png'}" in said
    assert (runs / "figures" / "multi30k.png").is_file()
    assert tree(results) == before


def test_local_runs_of_one_cell_and_seed_have_a_row_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, bleu in (("a", 30.0), ("b", 31.0)):
        put_run(tmp_path / "runs" / place, record("demo", "ln", metrics={"bleu": bleu}))
    report_local(tmp_path / "runs", tmp_path / "results")
    said = capsys.readouterr().out
    assert "not scored" not in said
    assert re.search(r"ln, local, in \S+/a/demo/ln/seed1 .*30\.00\s", said)
    assert re.search(r"ln, local, in \S+/b/demo/ln/seed1 .*31\.00\s", said)


def test_the_folder_of_local_runs_needs_local(refused) -> None:
    assert "add --local" in refused("report", "--runs", "mine")


def test_a_published_run_is_not_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = record("demo", "ln", metrics={"bleu": 34.0})
    put(tmp_path / "results", content)
    put_run(tmp_path / "runs", content)
    report_local(tmp_path / "runs", tmp_path / "results")
    said = capsys.readouterr().out
    assert "34.00" in said
    assert "ln, local" not in said


def test_a_local_run_is_not_in_a_row_of_the_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_run(tmp_path / "runs", record("iwslt14", "pn", metrics={"bleu": 35.5}, updates=50_000, stopped_by="max_epoch"))
    report_local(tmp_path / "runs", tmp_path / "nowhere")
    rows = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    (row,) = [row for row in rows if "35.50" in row]
    assert row[0].startswith("pn")
    assert "local" in row[0]
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_without_finished_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*runs"):
        report_local(tmp_path / "runs", tmp_path / "results")
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match=r"no run in .*runs is finished: normplugins list"):
        report_local(tmp_path / "runs", tmp_path / "results")
