"""A campaign: its plan is validated first, each run is published once, and a kill does not change the results."""

import json
import re
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from normplugins.report.plans import Plan
from normplugins.runs import folder, record
from normplugins.runs.campaign import read_plan
from normplugins.runs.cell import display_name
from normplugins.runs.plan_file import read_plan_file
from normplugins.utils.json_file import HASH
from tests.helpers.runs import OTHER_CONFIG, REPOSITORY, TINY, Point, command, differences, files, outcome

PLANS = sorted((REPOSITORY / "configs" / "campaign").glob("*.yaml"))
SHORT = [*TINY, "tracking=none", "optimization.max_update=6", "train.checkpoint_minutes=0"]
UNSCORED = [*SHORT, "evaluate.translate=false", "evaluate.average=null"]
BLOCK = {"experiment": "demo", "cells": ["norm=ln", "norm=pn norm.group_scaling=false"], "seeds": [1]}


def write_plan(place, *blocks, **keys):
    path = place / "plan.yaml"
    path.write_text(yaml.safe_dump({"overrides": SHORT, "blocks": list(blocks), **keys}), encoding="utf-8")
    return path


def run_campaign(folder, *arguments, at=None):
    return command(["campaign", "plan.yaml", "--force", *arguments], folder, at)


def outcomes(folder):
    return {
        str(path.relative_to(folder)): outcome_of(folder, path) for path in (folder / "results").rglob("seed*.json")
    }


def outcome_of(folder, path):
    experiment, variant, seed = path.relative_to(folder / "results" / "runs").with_suffix("").parts
    return outcome(folder, folder / "runs" / experiment / variant / seed, path)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    write_plan(folder, BLOCK)
    status, said = run_campaign(folder)
    assert status == 0, said
    return folder, said


@pytest.mark.slow
@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_plan_of_the_project_can_be_run(path):
    runs = read_plan(path)
    assert len({planned.record_path for planned in runs}) == len(runs)
    names = {(run.settings["experiment"], display_name(run.settings["variant"], run.settings["seed"])) for run in runs}
    assert len(names) == len(runs)
    assert {(run.settings["experiment"], run.settings["variant"]) for run in runs} == set(Plan.named(path.stem).cells)
    of_older_code = [planned for planned in runs if planned.record_path.exists() and planned.state != "done"]
    assert not of_older_code, "settings that were added since do not make a published run another one"


def test_the_order_of_the_campaign_has_the_runs_of_its_plan():
    ordered, planned = (
        read_plan_file(REPOSITORY / name) for name in ("scripts/campaign_order.yaml", "configs/campaign/multi30k.yaml")
    )
    runs, expected = (
        Counter((block.experiment, cell, seed) for block in plan.blocks for cell in block.cells for seed in block.seeds)
        for plan in (ordered, planned)
    )
    assert runs == expected
    assert ordered.overrides == planned.overrides


def test_each_seed_of_a_block_is_a_complete_comparison(tmp_path):
    first = {**BLOCK, "seeds": [1, 2]}
    plan = write_plan(tmp_path, first, {**BLOCK, "cells": ["norm=ln"], "seeds": [2, 3]})
    order = [(planned.settings["variant"], planned.settings["seed"]) for planned in read_plan(plan)]
    ln, pn = (variant for variant, _ in order[:2])
    assert order == [(ln, 1), (pn, 1), (ln, 2), (pn, 2), (ln, 3)]


@pytest.mark.slow
def test_each_run_is_published_once(unbroken):
    folder, said = unbroken
    assert "2 of 2 runs done" in said
    assert sorted(path.name for path in (folder / "results").rglob("*.json")) == ["seed1.json", "seed1.json"]
    before = files(folder / "runs") | files(folder / "results")
    status, said = run_campaign(folder)
    assert (status, files(folder / "runs") | files(folder / "results")) == (0, before)
    assert "2 of 2 runs done" in said


@pytest.mark.slow
def test_a_campaign_that_is_killed_ends_with_the_same_results(unbroken, tmp_path):
    write_plan(tmp_path, BLOCK)
    for point in (
        Point(r"os\.rename \S+seed1\.json\.tmp"),  # its record is not published yet
        Point(r"open \S*test\.last\.hypotheses"),  # during the scoring of the second run
    ):
        status, said = run_campaign(tmp_path, at=point)
        assert status == -signal.SIGKILL, said
    status, said = run_campaign(tmp_path)
    assert status == 0, said
    assert differences(outcomes(tmp_path), outcomes(unbroken[0])) == []


@pytest.mark.slow
def test_a_run_that_was_interrupted_is_completed_first(tmp_path):
    write_plan(tmp_path, {**BLOCK, "cells": BLOCK["cells"][1:]}, overrides=UNSCORED)
    assert run_campaign(tmp_path, at=Point(r"os\.rename \S+checkpoint_last\.pt\.tmp"))[0] == -signal.SIGKILL
    write_plan(tmp_path, BLOCK, overrides=UNSCORED)
    status, said = run_campaign(tmp_path)
    assert status == 0, said
    assert re.findall(r"^demo (\w+)\S* on CPU", said, re.MULTILINE) == ["pn", "ln"]


def test_records_of_code_that_is_not_committed_need_force(tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "git_commit", lambda: "0" * 40 + "+changes")
    write_plan(tmp_path, BLOCK)
    assert "run the campaign with --force" in refused("campaign", "plan.yaml")
    assert not Path("runs").exists()


@pytest.mark.slow
def test_campaigns_at_the_same_time_share_the_runs(unbroken, tmp_path):
    write_plan(tmp_path, BLOCK)
    with ThreadPoolExecutor() as pool:
        calls = list(pool.map(run_campaign, [tmp_path] * 2))
    assert {status for status, _ in calls} <= {0, 75}, calls
    assert 0 in {status for status, _ in calls}, calls
    assert any("skipped: another run" in said for _, said in calls), "they were at work at the same time"
    assert differences(outcomes(tmp_path), outcomes(unbroken[0])) == []


@pytest.mark.slow
def test_sigterm_ends_training_when_the_update_is_saved(tmp_path):
    write_plan(tmp_path, {**BLOCK, "cells": ["norm=ln"]}, overrides=[*UNSCORED, "train.checkpoint_minutes=60"])
    point = Point(r"open \S*train\.log", 2, signal.SIGTERM)
    status, said = run_campaign(tmp_path, at=point)
    assert status == -signal.SIGTERM, said
    (log,) = tmp_path.glob("runs/demo/*/seed1/train.log")
    last = log.read_text(encoding="utf-8").splitlines()[-1]
    assert last.startswith("stopped by a signal; update 3 is saved")
    assert run_campaign(tmp_path)[0] == 0
    assert "resuming from update 3 " in log.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_end_of_the_minutes_saves_the_current_update(tmp_path):
    write_plan(tmp_path, {**BLOCK, "cells": ["norm=ln"]}, overrides=[*UNSCORED, "train.checkpoint_minutes=60"])
    status, said = run_campaign(tmp_path, "--minutes", "0.001")
    assert (status, "run the same command to continue" in said) == (75, True)
    assert "0 of 1 runs done" in run_campaign(tmp_path, "--show")[1]
    point = Point(r"open \S*train\.log", 2, signal.SIGALRM)  # as the timer sends it, in training
    status, said = run_campaign(tmp_path, "--minutes", "60", at=point)
    assert (status, "the limit of 60 minutes is reached" in said) == (75, True), said
    assert run_campaign(tmp_path)[0] == 0
    (log,) = tmp_path.glob("runs/demo/*/seed1/train.log")
    assert "resuming from update " in log.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_published_as_a_result(tmp_path):
    write_plan(tmp_path, {**BLOCK, "cells": ["norm=none optimization.lr=1e30", "norm=ln"]}, overrides=UNSCORED)
    status, said = run_campaign(tmp_path)
    assert (status, "2 of 2 runs done" in said) == (0, True), said
    (path,) = (tmp_path / "results").rglob("*.diverged.json")
    diverged = json.loads(path.read_text(encoding="utf-8"))
    assert (diverged["experiment"], diverged["seed"]) == ("demo", 1)
    assert "not finite" in diverged["diverged"]
    assert run_campaign(tmp_path)[0] == 0
    lost, _ = read_plan(tmp_path / "plan.yaml", results=tmp_path / "results")
    assert lost.state == "diverged"
    diverged["config"]["model.dropout"] = 0.9
    path.write_text(json.dumps({key: value for key, value in diverged.items() if key != HASH}), encoding="utf-8")
    assert lost.state != "diverged", "a run with these settings has not been tried"
    lost.record_path.write_text("{}", encoding="utf-8")  # as the record of a run with other settings
    assert run_campaign(tmp_path)[0] == 0
    assert (lost.state, lost.record_path.exists()) == ("diverged", False)


@pytest.mark.slow
def test_another_failure_does_not_stop_the_runs_after_it(tmp_path):
    plan = write_plan(tmp_path, BLOCK, overrides=UNSCORED)
    taken = tmp_path / read_plan(plan)[0].run_dir
    taken.mkdir(parents=True)
    (taken / "config.yaml").write_text(OTHER_CONFIG, encoding="utf-8")
    (taken / "checkpoint_last.pt").touch()
    status, said = run_campaign(tmp_path)
    assert (status, "1 of 2 runs done" in said, "a run with other settings" in said) == (1, True, True), said


def test_a_run_in_use_by_another_process_is_skipped(tmp_path):
    plan = write_plan(tmp_path, {**BLOCK, "cells": ["norm=ln"]})
    with folder.locked(tmp_path / read_plan(plan)[0].run_dir):
        status, said = run_campaign(tmp_path)
    assert (status, "seed 1 skipped: another run" in said, "failed" in said) == (75, True, False), said


def test_a_record_with_other_settings_does_not_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (planned,) = read_plan(write_plan(tmp_path, {**BLOCK, "cells": ["norm=ln"], "seeds": [3]}))
    planned.record_path.parent.mkdir(parents=True)
    for changed, state in (({}, "done"), ({"optimization.max_update": 7}, "left"), ({"seed": 4}, "left")):
        found = {"format": 2, "config": planned.settings | changed}
        planned.record_path.write_text(json.dumps(found), encoding="utf-8")
        assert planned.state == state


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("blocks: [", "a plan needs blocks, each with experiment, cells and seeds"),
        ("[]", "Cannot merge DictConfig with ListConfig"),
        ("{blocks: [], block: []}", "Key 'block' not in 'PlanFile'"),
        ("blocks: null", "field 'blocks' is not Optional"),
        ("{blocks: [{experiment: demo, cells: [norm=ln]}]}", "full_key: blocks[0].seeds"),
        (
            "{blocks: [{experiment: demo, cells: [norm=ln], seeds: 3}]}",
            "is not a ListConfig",
        ),
        ("{blocks: [{experiment: demo, cells: [++force=true], seeds: [1]}]}", "cannot be set in a plan"),
        ("{blocks: [{experiment: nope, cells: [norm=ln], seeds: [1]}]}", "unknown experiment 'nope'"),
        ("{blocks: [{experiment: demo, cells: [norm=nope], seeds: [1]}]}", "unknown norm 'nope'"),
        ("{blocks: [{experiment: demo, cells: [seed=3], seeds: [1]}]}", "'seed=3' cannot be set in a plan"),
        ("{blocks: [{experiment: demo, cells: [hardware=slurm], seeds: [1]}]}", "completes each run itself"),
        ("{blocks: [{experiment: demo, cells: [norm=ln], seeds: [1, -1]}]}", "plan.yaml: seed is -1"),
        ("{blocks: [{experiment: demo, cells: [evaluate.beam=0], seeds: [1]}]}", "evaluate.beam is 0"),
    ],
)
def test_an_invalid_plan_is_refused_before_anything_runs(content, words, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_text(content, encoding="utf-8")
    assert words in refused("campaign", "plan.yaml")
    assert not Path("runs").exists()
