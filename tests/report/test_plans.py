"""The plans of the campaign: their runs have the names under which the campaign publishes them."""

from pathlib import Path

from normplugins.report import plans
from normplugins.runs import campaign_plan
from tests.helpers.records import put, put_diverged, record

TEXT = """
overrides: [hardware=cpu, tracking=none]
blocks:
  - experiment: multi30k
    seeds: [1, 2]
    cells: [norm=ln, norm=rms norm.groups=4, norm=pn lr_scheduler.warmup_updates=500 dataset.max_tokens=4096]
  - {experiment: ptb, seeds: [1], cells: [budget=cpu reading=paper norm=ln]}
"""


def test_names_are_those_of_the_campaign(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "campaign" / "small.yaml"
    path.parent.mkdir()
    path.write_text(TEXT)
    composed = {(run.settings["experiment"], run.settings["variant"]) for run in campaign_plan.read_plan(path)}
    monkeypatch.setattr(plans, "config_dir", lambda: tmp_path)
    plan = plans.read_plan("small")
    assert set(plan.cells) == composed
    assert plan.planned == 7


def test_published_and_diverged_runs_are_counted(tmp_path: Path) -> None:
    put(tmp_path, record("multi30k", "pn", 1))
    put(tmp_path, record("multi30k", "pn", 101))  # of the pilot
    put_diverged(tmp_path, "multi30k", "ln", 2)
    assert plans.read_plan("multi30k").published(tmp_path) == (1, 1)
