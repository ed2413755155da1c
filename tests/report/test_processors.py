"""What the report says about runs on different processors."""

import json
import re
from pathlib import Path

import pytest

from normplugins.report import answer, processors
from normplugins.report.contrasts import find
from normplugins.report.records import read_results
from tests.helpers.records import put_translated

OTHER = {"cpu": "2 x Intel Xeon", "device": "CPU", "threads": 2, "memory_gb": 25}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """PN is better than LN and PN-V; all runs of LN are made on another processor than the other runs."""
    for seed in (1, 2, 3):
        put_translated(tmp_path, "pn", seed, {})
        put_translated(tmp_path, "pnv,norm.group_scaling=true", seed, {1: 50 + seed})
        put_translated(tmp_path, "ln", seed, {1: 50 + seed}, hardware=OTHER)
    return tmp_path


def put_repeat(results: Path, variant: str, seed: int, less: float, threads: int = 2) -> None:
    """Repeat a run on the other processor, with a score that is lower by ``less``."""
    record = json.loads((results / "runs/multi30k" / variant / f"seed{seed}.json").read_text(encoding="utf-8"))
    record["hardware"] = OTHER | {"threads": threads}
    record["scores"]["averaged"]["test"]["bleu"]["score"] -= less
    path = results / "repeats/multi30k" / variant / f"seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record.pop("sha256", None)
    path.write_text(json.dumps(record), encoding="utf-8")


def sensitivity(results: Path) -> str:
    findings = find(results, resamples=100)
    return processors.sensitivity(results, findings, answer.scores_on_test(read_results(results)))


def test_a_verdict_that_depends_on_the_processor_is_named(results: Path) -> None:
    assert sensitivity(results) == "", "no run was repeated"
    findings = {each.contrast.name: each for each in find(results, resamples=100)}
    assert findings["PN - LN"].verdict == findings["PN - PN-V with group scaling"].verdict == "better"
    gain = findings["PN - LN"].difference.mean
    put_repeat(results, "pn", 1, gain - 1)
    put_repeat(results, "pn", 2, gain + 1)
    text = sensitivity(results)
    assert f"Second run minus first: {-gain:+.2f} BLEU [" in text
    assert ", 2 runs (" in text
    assert re.search(r"PN - LN would be (undecided|equivalent) instead of better: [+-]0\.00 BLEU", text)
    assert "PN - PN-V" not in text, "both sides were made on the same processor"
    assert "threads" not in text
    scores = answer.scores_on_test(read_results(results))
    assert processors.sensitive_contrasts(results, list(findings.values()), scores) == {"PN - LN"}


def test_an_effect_that_changes_nothing_is_named_too(results: Path) -> None:
    put_repeat(results, "pn", 1, -0.5, threads=1)
    text = sensitivity(results)
    assert "Second run minus first: +0.50 BLEU, 1 run (" in text
    assert "The numbers of threads differ too (1 and 2), so the cause may be either." in text
    assert text.endswith("no verdict changes.")


def test_a_repeat_without_its_first_run_or_on_the_same_processor_says_nothing(results: Path) -> None:
    put_repeat(results, "ln", 1, 1.0)
    assert sensitivity(results) == "", "both were made on the other processor"
    (results / "repeats/multi30k/ln/seed1.json").unlink()
    put_repeat(results, "pn", 1, 1.0)
    (results / "runs/multi30k/pn/seed1.json").unlink()
    assert sensitivity(results) == ""


def test_the_pairs_of_different_processors_are_counted_for_each_contrast(results: Path) -> None:
    found = answer.planned_cells(read_results(results))
    said = processors.describe_mixed(find(results, resamples=100), found)
    assert "In 3 of 6 pairs the two runs did not use one and the same processor" in said
    assert said.endswith("The pairs of different processors are: 3 of 3 in PN - LN.")
