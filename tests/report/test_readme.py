"""The part of README.md that is generated."""

import re
from pathlib import Path

from normplugins.report.contrasts import find
from normplugins.report.plans import Plan
from normplugins.report.readme import BEGIN, DETAILS, END, SHOWN, in_short, readme_part, rewrite_readme
from normplugins.report.records import read_results
from tests.helpers.records import put_translated
from tests.helpers.runs import REPOSITORY


def test_the_part_between_the_marks_follows_from_the_records(tmp_path: Path) -> None:
    for seed in (1, 2):
        put_translated(tmp_path, "pn", seed, {1: seed})
        put_translated(tmp_path, "ln", seed, {1: 40 * seed})
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    part = readme_part(tmp_path, find(tmp_path, resamples=50), read_results(tmp_path), set())
    assert rewrite_readme(readme, part)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert re.search(r"4 of \d+ planned runs of Multi30k are published\. Contrasts: 0 of \d+ complete", text)
    assert re.search(r"^\| PN \| `norm=pn` \| \d+\.\d\d \| 2 \| \+\d+\.\d\d \|$", text, re.MULTILINE), (
        "two seeds have no standard deviation"
    )
    answer = r"^- \*\*Does PN .*\?\*\* PN - LN: \+.* BLEU \[.*\], 2 of 9 seeds, undecided so far\.$"
    assert re.search(answer, text, re.MULTILINE)
    assert rewrite_readme(readme, part)
    assert readme.read_text() == text


def test_the_answer_in_short_marks_verdicts_that_depend_on_the_processors(tmp_path: Path) -> None:
    for seed in (1, 2):
        put_translated(tmp_path, "pn", seed, {1: seed})
        put_translated(tmp_path, "ln", seed, {1: 40 * seed})
    items = dict(zip(SHOWN, in_short(find(tmp_path, resamples=50), {"PN - LN"}), strict=True))
    assert items["PN - LN"].endswith("undecided so far ([sensitive to processors](#in-detail)).")
    assert "sensitive" not in items["BN - LN"]
    assert f"\n### {DETAILS}\n" in (REPOSITORY / "results" / "README.md").read_text(encoding="utf-8"), (
        "the link's target"
    )


def test_the_readme_of_the_project_counts_its_records() -> None:
    progress = Plan.named("multi30k").progress(REPOSITORY / "results")
    text = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
    assert f"{progress.published} of {progress.planned} planned runs" in text, (
        "run normplugins report, and commit it too"
    )


def test_a_readme_without_marks_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert not rewrite_readme(tmp_path / "README.md", "part")
    assert (tmp_path / "README.md").read_text() == "mine"
