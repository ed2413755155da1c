"""The plans of the campaign: their runs have the names under which the campaign publishes them."""

from pathlib import Path

import pandas as pd
import pytest

from normplugins.report import plans
from normplugins.report.records import read_results
from normplugins.utils.errors import UserError
from tests.helpers.records import put, put_diverged, record


def runs_of(name: str) -> int:
    return sum(map(len, plans.Plan.named(name).cells.values()))


def test_published_and_diverged_runs_are_counted(tmp_path: Path) -> None:
    put(tmp_path, record("multi30k", "pn", 1))
    put(tmp_path, record("multi30k", "pn", 101))  # of the pilot
    put_diverged(tmp_path, "multi30k", "ln", 2)
    progress = plans.Plan.named("multi30k").progress(tmp_path)
    assert (progress.published, progress.diverged, len(progress.left)) == (1, 1, runs_of("multi30k") - 2)


def test_a_run_of_any_number_of_processes_is_planned_if_they_share_the_batches(tmp_path: Path) -> None:
    shared, other = ("wmt14", "pn,recipe=un"), ("multi30k", "pn")
    plan = plans.Plan("both", {shared: (1,), other: (1,)})
    put(tmp_path, record("wmt14", "pn,processes=8,recipe=un", 1))
    put(tmp_path, record("multi30k", "pn,processes=8", 1))
    assert plan.progress(tmp_path).left == (other,)


def test_a_cell_without_a_norm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "campaign").mkdir()
    for name, cell in (("a", "norm=ln"), ("b", "seed=1"), ("c", "norm=pn")):
        text = f"blocks: [{{experiment: multi30k, cells: [{cell}], seeds: [1]}}]"
        (tmp_path / "campaign" / f"{name}.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(plans, "config_dir", lambda: tmp_path)
    plans.Plan.named.cache_clear()
    with pytest.raises(UserError, match="cell 'seed=1' names no norm"):
        list(plans.all_plans())
    plans.Plan.named.cache_clear()


def test_the_hours_of_a_plan_count_what_is_known(tmp_path: Path) -> None:
    for seed in (1, 2):
        put(tmp_path, record("enja", "ln", seed, wall_seconds=7200.0))
    table = plans.plan_table(tmp_path, read_results(tmp_path))
    (row,) = (row for row in table.rows if row[0].startswith("[enja]"))
    experiments = [experiment for (experiment, _), seeds in plans.Plan.named("enja").cells.items() for _ in seeds]
    known, unknown = 2 * (experiments.count("enja") - 2), experiments.count("jaen")
    assert row[3:] == ["120", f"{known}, {unknown} runs unknown"]


def test_the_table_counts_the_hours_that_are_left_from_recorded_runs(tmp_path: Path) -> None:
    for seed, seconds in ((1, 3600.0), (2, 7200.0)):
        put(tmp_path, record("multi30k", "ln", seed, wall_seconds=seconds))
    put_diverged(tmp_path, "multi30k", "ln", 3)
    table = plans.plan_table(tmp_path, read_results(tmp_path))
    rows = {row[0].partition("]")[0].strip("["): row[2:] for row in table.rows}
    left = 1.5 * (runs_of("multi30k") - 3)
    assert rows["multi30k"] == [f"2 of {runs_of('multi30k')}, 1 diverged", "90", f"{left:.0f}"]
    left = 1.5 * (runs_of("precision") - 3)
    assert rows["precision"] == [f"2 of {runs_of('precision')}, 1 diverged", "90", f"{left:.0f}"]
    assert rows["gpu"][1:] == ["", "unknown"]
    assert all(row[1] for row in table.rows), "every plan says what it decides"


def test_the_cells_of_an_experiment_are_divided_among_its_plans() -> None:
    cells = ["ln", "ln,model.placement=post", "ln,precision=bf16", "pn", "pn,norm.eps=0.1"]
    runs = pd.DataFrame([(cell, 1) for cell in cells] + [("ln,precision=bf16", 9)], columns=["variant", "seed"])
    parts = {plan.name: list(rows["variant"]) for plan, rows in plans.by_plan("multi30k", runs)}
    assert parts == {
        "multi30k": ["ln", "pn"],
        "placements": ["ln", "ln,model.placement=post", "pn"],
        "precision": ["ln", "ln,precision=bf16", "pn"],
        "other": ["pn,norm.eps=0.1", "ln,precision=bf16"],  # the second has a seed that is in no plan
    }
    assert [plan.name for plan, _ in plans.by_plan("demo", runs[:1])] == ["other"]


def test_every_experiment_has_the_plan_of_its_name_or_the_first_with_runs_of_it() -> None:
    assert [plans.plan_of(name).name for name in ("multi30k", "jaen", "iwslt14")] == ["multi30k", "enja", "gpu"]
    assert not plans.plan_of("demo").cells
