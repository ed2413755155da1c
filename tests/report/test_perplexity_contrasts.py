"""The contrasts of short language models on PTB: differences of logarithms, adjusted within a reading."""

import math
from pathlib import Path

import pytest

from normplugins.report.perplexity_contrasts import perplexity_contrasts, summary
from normplugins.report.records import read_results
from tests.helpers.records import language_model, put, put_diverged, scored

MASKED = "budget=cpu,model.causal=true"
PAPER = f"{MASKED},model.normalize_before=true"
PERPLEXITIES = {
    f"ln,{MASKED}": (220.0, 225.0, 230.0),
    f"bn,{MASKED}": (285.0, 300.0, 299.0),
    f"pnv,{MASKED}": (219.0, 229.0, 228.0),
    f"pn,{MASKED}": (200.0, 204.0, 210.0),
    f"ln,{PAPER}": (180.0,),
    f"pn,{PAPER}": (190.0,),
}


def put_runs(results: Path, cells: dict[str, tuple[float, ...]]) -> None:
    for cell, scores in cells.items():
        for seed, ppl in enumerate(scores, 1):
            run = language_model("ptb", cell, seed, ppl, updates=400)
            run["corpus"]["sha256"] = {"text/test": "0"}
            put(results, scored(run, {}))


def rows(results: Path) -> dict[str, dict[str, str]]:
    table = perplexity_contrasts(results, read_results(results))
    assert table is not None
    heads = [column.name for column in table.columns]
    return {row[0]: dict(zip(heads, row, strict=True)) for row in table.rows}


def test_the_difference_is_that_of_the_logarithms_over_paired_seeds(tmp_path: Path) -> None:
    put_runs(tmp_path, PERPLEXITIES)
    found = rows(tmp_path)["PN - LN, reading=masked"]
    ours, theirs = PERPLEXITIES[f"pn,{MASKED}"], PERPLEXITIES[f"ln,{MASKED}"]
    mean = sum(math.log(a / b) for a, b in zip(ours, theirs, strict=True)) / 3
    assert found["log ppl [95 %]"].startswith(f"{mean:+.3f} [")
    assert found["ratio\nof ppl"] == f"{math.exp(mean):.3f}"
    assert found["seeds"] == "3 of 3"
    assert found["verdict"] == "exploratory: better", "a lower perplexity is better"
    assert rows(tmp_path)["BN - LN, reading=masked"]["verdict"] == "exploratory: worse"
    assert rows(tmp_path)["PN-V - LN, reading=masked"]["verdict"] == "exploratory: undecided"
    table = perplexity_contrasts(tmp_path, read_results(tmp_path))
    assert "diverged" not in f"{table.shared} {found.keys()}"


def test_one_seed_has_no_interval_and_no_verdict(tmp_path: Path) -> None:
    put_runs(tmp_path, PERPLEXITIES)
    found = rows(tmp_path)["PN - LN, reading=paper"]
    assert (found["log ppl [95 %]"], found["seeds"]) == (f"{math.log(190 / 180):+.3f}", "1 of 3")
    assert found["verdict"] == "one seed: no verdict"


def test_p_values_are_adjusted_within_a_reading(tmp_path: Path) -> None:
    put_runs(tmp_path, PERPLEXITIES)
    before = rows(tmp_path)["PN - LN, reading=masked"]["p (Holm)"]
    alone, adjusted = (float(p.strip("()")) for p in before.split())
    assert adjusted == pytest.approx(3 * alone, rel=0.05), "the smallest of the three contrasts of its reading"
    put_runs(tmp_path, {f"{norm},{PAPER}": PERPLEXITIES[f"{norm},{MASKED}"] for norm in ("ln", "bn", "pnv", "pn")})
    after = rows(tmp_path)
    assert after["PN - LN, reading=masked"]["p (Holm)"] == before
    assert after["PN - LN, reading=paper"]["p (Holm)"] == before, "the same scores in the same kind of family"


def test_a_norm_whose_runs_diverged_has_a_row(tmp_path: Path) -> None:
    put_runs(tmp_path, {cell: scores for cell, scores in PERPLEXITIES.items() if not cell.startswith("bn")})
    for seed in (1, 2, 3):
        put_diverged(tmp_path, "ptb", f"bn,{MASKED}", seed)
    assert {row["diverged"] for row in rows(tmp_path).values()} == {"0 and 0", "3 and 0"}
    found = rows(tmp_path)["BN - LN, reading=masked"]
    assert (found["seeds"], found["diverged"], found["verdict"]) == ("0 of 3", "3 and 0", "not run")


@pytest.mark.parametrize("cells", [{}, {f"pn,{MASKED}": (200.0,)}])
def test_without_a_pair_there_is_no_table(tmp_path: Path, cells: dict[str, tuple[float, ...]]) -> None:
    put(tmp_path, language_model("ptb", "ln", 1, 53.0))
    put_runs(tmp_path, cells)
    found = read_results(tmp_path)
    assert perplexity_contrasts(tmp_path, found) is None
    assert summary(tmp_path, found) == ""


def test_the_summary_says_by_how_many_percent_the_perplexity_is_higher(tmp_path: Path) -> None:
    put_runs(tmp_path, PERPLEXITIES)
    found = read_results(tmp_path)
    ours, theirs = PERPLEXITIES[f"pn,{MASKED}"], PERPLEXITIES[f"ln,{MASKED}"]
    ratio = math.prod(a / b for a, b in zip(ours, theirs, strict=True))
    pn = summary(tmp_path, found, ["pn"])
    assert f"With `reading=masked`: PN {100 * (ratio ** (1 / 3) - 1):+.1f} % [" in pn
    assert "3 seeds, better. With" in pn, "a lower perplexity is better"
    assert f"With `reading=paper`: PN {100 * (190 / 180 - 1):+.1f} %, one seed: no verdict." in pn
    assert "BN" not in pn
    assert "; PN-V " in summary(tmp_path, found)
