"""Contrasts of three seeds: what is better, worse and undecided, and the list of the protocol."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from normplugins.evaluation.significance import holm
from normplugins.report import answer
from normplugins.report.contrast_table import contrast_table
from normplugins.report.contrasts import CELLS, CHECKPOINTS, CONTRASTS, find
from normplugins.report.forest import CONTRASTS_TITLE, forest, over_corpora
from normplugins.report.plans import NU_BOUND, Plan
from normplugins.report.probe_table import probe_table
from normplugins.report.records import read_results
from normplugins.utils.errors import UserError
from tests.helpers.pictures import assert_legible, written
from tests.helpers.records import put_diverged, put_translated
from tests.helpers.runs import REPOSITORY

SEEDS = (1, 2, 3)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """PN is better than LN, BN worse, and RMS in groups either; PN without group scaling has one seed."""
    for seed in SEEDS:
        put_translated(tmp_path, "ln", seed, {1: 60 - seed})
        put_translated(tmp_path, "pn", seed, {})
        put_translated(tmp_path, "bn", seed, {3: 60 - seed})
        put_translated(tmp_path, "rms,norm.groups=4", seed, {2: 30 * seed - 30})
    put_translated(tmp_path, "pn,norm.group_scaling=false", 1, {2: 10})
    return tmp_path


def found(results: Path, **changes):
    return {each.contrast.name: each for each in find(results, resamples=200, **changes)}


def found_by_checkpoint(results: Path):
    return {name: find(results, name, resamples=50) for name in CHECKPOINTS}


def test_the_contrasts_are_those_of_the_protocol() -> None:
    text = (REPOSITORY / "docs/protocol.md").read_text(encoding="utf-8")
    section = re.search(r"^## Contrasts\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert section
    rows = re.findall(r"^\| (`.*?) \| .*? \|$", section[1], re.MULTILINE)
    names = {f"`{cell}`": name for cell, name in CELLS.items()}

    def plain(text: str) -> str:
        return re.sub(r"`\w+`", lambda match: names[match[0]], text)

    assert [each.name for each in CONTRASTS] == [plain(name) for name in rows]
    confirmatory, _, _ = section[1].partition("*Exploratory*")
    assert [each.family == "confirmatory" for each in CONTRASTS] == [name in confirmatory for name in rows]


def test_verdicts(results: Path) -> None:
    by_name = found(results)
    assert by_name["PN - LN"].verdict == "better"
    assert by_name["PN - LN"].difference.mean > 10
    assert by_name["BN - LN"].verdict == "worse"
    assert by_name["RMS in groups - LN"].verdict == "undecided"
    assert by_name["RMS in groups - LN"].seeds_needed is None or by_name["RMS in groups - LN"].seeds_needed > 3
    assert by_name["PN - PN without group scaling"].verdict == "one seed: no verdict"
    assert by_name["RMS in groups - RMS"].verdict == "not run"
    assert not by_name["PN - LN"].complete


def test_each_checkpoint_has_its_own_contrasts(tmp_path: Path) -> None:
    for seed in SEEDS:
        put_translated(tmp_path, "ln", seed, {1: 10 + seed})
        put_translated(tmp_path, "pn", seed, {}, last={1: 30 + seed})
    better = {name: first.difference.mean > 0 for name, (first, *_) in found_by_checkpoint(tmp_path).items()}
    assert better == {"averaged": True, "last": False, "best": True}


def test_two_seeds_do_not_say_how_many_would_decide(results: Path) -> None:
    (results / "runs/multi30k/ln/seed3.json").unlink()
    each = found(results)["RMS in groups - LN"]
    assert (each.verdict, each.seeds, each.seeds_needed) == ("undecided", 2, None)


def test_holm_counts_the_contrasts_that_are_not_run(results: Path) -> None:
    by_name = found(results)
    confirmatory = [by_name[each.name].difference for each in CONTRASTS[:6]]
    adjusted = holm([each.p if each else math.nan for each in confirmatory])
    assert by_name["PN - LN"].p_adjusted == adjusted[0] > 3 * confirmatory[0].p


@pytest.mark.slow
def test_the_p_value_of_a_complete_contrast_cannot_become_larger(results: Path) -> None:
    for seed in SEEDS:
        put_translated(results, "pn,norm.group_scaling=false", seed, {2: 10 * seed})
    before = found(results)["PN - PN without group scaling"]
    for seed in (1, 2):  # an incomplete contrast of the same family, with a small p-value
        put_translated(results, "bn_released", seed, {3: 10})
    by_name = found(results)
    after, other = by_name["PN - PN without group scaling"], by_name["BN as released - BN"]
    assert after.complete
    assert not other.complete
    assert other.difference.p < after.difference.p
    assert after.p_adjusted == before.p_adjusted == 6 * after.difference.p
    assert (after.final, after.verdict_so_far) == (True, "undecided"), "its own p-value is above the level"


def test_a_verdict_is_final_when_no_later_run_can_change_it(results: Path) -> None:
    for seed in SEEDS:
        put_translated(results, "pn,norm.group_scaling=false", seed, {2: 30 + 3 * seed})
    each = found(results)["PN - PN without group scaling"]
    assert each.complete
    assert each.difference.p < 0.05 < each.p_adjusted
    assert (each.final, each.verdict_so_far) == (False, "undecided so far"), "Holm's method may still call it better"


@pytest.mark.slow
def test_a_side_that_diverged_more_often_is_not_better(results: Path) -> None:
    put_diverged(results, "multi30k", "pn", 4)
    each = found(results)["PN - LN"]
    assert each.diverged == (1, 0)
    assert each.verdict == "undecided"
    assert "has more runs that diverged" in answer.describe_verdict(each)


@pytest.mark.parametrize(
    ("ended", "lost", "worse"), [((1, 2, 3), (), True), ((1, 2), (3,), False), ((), (1, 2, 3), False), ((), (), False)]
)
def test_a_side_that_only_diverged_is_worse_than_one_that_never_did(tmp_path: Path, ended, lost, worse) -> None:
    for seed in SEEDS:
        put_diverged(tmp_path, "multi30k", "pn", seed)
    for seed in ended:
        put_translated(tmp_path, "ln", seed, {1: seed})
    for seed in lost:
        put_diverged(tmp_path, "multi30k", "ln", seed)
    assert found(tmp_path)["PN - LN"].worse == worse


@pytest.mark.slow
def test_only_the_planned_seeds_of_a_contrast_count(results: Path) -> None:
    for seed in (2, 3):
        put_translated(results, "pn,norm.group_scaling=false", seed, {2: 10 * seed})
    put_diverged(results, "multi30k", "pn", 7)  # a seed of PN - LN, and not of the contrast with three seeds
    by_name = found(results)
    three, nine = by_name["PN - PN without group scaling"], by_name["PN - LN"]
    assert (three.planned, three.diverged, three.complete) == (3, (0, 0), True)
    assert (nine.planned, nine.diverged, nine.complete) == (9, (1, 0), False)
    assert three.stopped_early == 6
    put_translated(results, "pn,norm.group_scaling=false", 4, {2: 50})
    put_translated(results, "pn", 4, {})
    assert found(results)["PN - PN without group scaling"].difference.seeds == SEEDS


def test_a_pair_of_which_each_side_lost_another_seed_is_not_missing(results: Path) -> None:
    put_diverged(results, "multi30k", "pn,norm.group_scaling=false", 2)
    (results / "runs/multi30k/pn/seed3.json").unlink()
    put_diverged(results, "multi30k", "pn", 3)
    each = found(results)["PN - PN without group scaling"]
    assert (each.diverged, each.seeds, each.complete) == ((1, 1), 1, True)


def test_a_cell_whose_runs_all_diverged_is_not_run(results: Path) -> None:
    put_diverged(results, "multi30k", "rms", 1)
    assert found(results)["RMS in groups - RMS"].verdict == "not run"


def test_what_contradicts_the_paper_is_said_as_what_agrees(results: Path) -> None:
    by_name = found(results)
    assert answer.describe_verdict(by_name["PN - LN"]).startswith("PN is better than LN so far. PN - LN: +")
    assert answer.describe_verdict(by_name["PN - LN"]).endswith("The direction is the one that the paper reports.")
    assert answer.describe_verdict(by_name["BN - LN"]).startswith("BN is worse than LN")
    worse = replace(by_name["PN - LN"], verdict="worse", final=True)
    assert answer.describe_verdict(worse).startswith("PN is worse than LN. PN - LN: ")
    assert answer.describe_verdict(worse).endswith("The direction is the opposite of the one that the paper reports.")
    same = replace(by_name["PN - LN"], verdict="equivalent")
    assert "The paper reports a difference of 0.4 BLEU or more" in answer.describe_verdict(same)
    undecided = replace(by_name["PN - LN"], verdict="undecided", p_adjusted=0.5, seeds_needed=20)
    assert answer.describe_verdict(undecided).startswith("Undecided so far. PN - LN: ")
    said = "This neither confirms nor contradicts the paper"
    assert answer.describe_verdict(undecided).endswith(f"{said}: p is below 0.05 only before Holm's adjustment.")
    never_small = replace(undecided, difference=replace(undecided.difference, p=0.3))
    assert answer.describe_verdict(never_small).endswith(f"{said}.")


def test_the_table_has_the_differences_without_the_brevity_penalty_and_counts_mixed_pairs(results: Path) -> None:
    records = read_results(results)
    records.loc[records["norm"] == "bn", "brevity"] = 0.5
    records.loc[records["norm"] == "ln", "hardware"] = "another"
    resumed = records["norm"].isin(["pn", "rms"]) & (records["seed"] == 1)  # in two more pairs, on both sides
    records.loc[resumed, "hardware"] = "one; two"
    table = contrast_table(found_by_checkpoint(results), records)
    column = [each.name for each in table.columns].index("without\npenalty")
    row = next(row for row in table.rows if row[0] == "BN - LN")
    whole = records[(records["metric"] == "bleu") & (records["checkpoint"] == "averaged")].groupby("norm")["value"]
    mixed = "In 11 of 13 pairs the two runs did not use one and the same processor throughout, and in 0 not one"
    assert any(mixed in note for note in table.notes)
    assert row[column] == f"{2 * whole.mean()['bn'] - whole.mean()['ln']:+.2f}"


def test_the_table_never_says_that_all_rows_have_what_one_row_lacks(results: Path) -> None:
    before = contrast_table(found_by_checkpoint(results), read_results(results))
    assert "diverged" not in {each.name for each in before.columns}
    put_diverged(results, "multi30k", "pn", 4)
    made = contrast_table(found_by_checkpoint(results), read_results(results))
    column = [each.name for each in made.columns].index("diverged")
    assert {row[0]: row[column] for row in made.rows if row[0] in ("PN - LN", "BN - LN")} == {
        "PN - LN": "1 and 0", "BN - LN": "0 and 0"}  # fmt: skip
    assert "diverged" not in made.shared


@pytest.mark.slow
def test_the_page_opens_with_the_answer(results: Path, page) -> None:
    put_diverged(results, "multi30k", "rms", 1)
    made = page()
    text, rows = " ".join(made.text.split()), made.rows("Contrasts")
    short, figure = text.index("- **Does PN as released translate better than LN?** PN - LN: "), "figures/contrasts.png"
    assert 0 < text.index("## The answer") < short < text.index(figure) < text.index("### In detail")
    assert text.index("### In detail") < text.index("## The numbers")
    assert re.search(
        r"13 of \d+ planned runs of Multi30k are published, and 1 diverged\. Contrasts: 0 of \d+ complete", text
    )
    assert rows["PN - LN"]["verdict"] == "better so far"
    assert rows["PN - PN without group scaling"]["verdict"] == "one seed: no verdict"
    assert rows["BN - LN"]["seeds"] == "3 of 9"
    assert "seeds to find 0.4 none" in made.section("Contrasts")
    assert (
        "Running statistics, together with PN's learned shift, warmup and backward pass: undecided so far. PN - RMS"
        in text
    )
    assert "Group scaling, tested in PN-V: not run." in text
    assert f"translations, it is {rows['PN - LN']['without penalty']} BLEU (not tested)." in text
    assert "scales each token first. BN as released - LN: not run" in text
    assert "In 13 of 13 runs, the last epoch has the lowest validation loss" in text
    assert "Of 14 runs, 1 diverged and 13 stopped early." in text
    assert (results / "contrasts.csv").read_text(encoding="utf-8").count("\n") == 1 + 3 * len(CONTRASTS)


@pytest.mark.slow
def test_the_answer_is_complete_with_all_planned_runs(results: Path) -> None:
    for (_, cell), seeds in Plan.named("multi30k").cells.items():
        for seed in seeds:
            put_translated(results, cell, seed, {1: seed})
    findings, probe = found_by_checkpoint(results), probe_table(results)
    text = " ".join(answer.sentences(results, findings, read_results(results), probe))
    assert re.match(
        r"\*\*The protocol is complete:\*\* (\d+) of \1 planned runs .* (\d+) of \2 complete, \2 decided\.",
        text,
    )
    assert "incomplete" not in text
    assert "so far" not in text


@pytest.mark.slow
def test_the_answer_has_group_scaling_in_runs_of_half_the_epochs(results: Path) -> None:
    def said() -> str:
        findings, probe = found_by_checkpoint(results), probe_table(results)
        return " ".join(answer.sentences(results, findings, read_results(results), probe))

    assert "half the epochs" not in said()
    for seed in SEEDS:
        for (_, cell), wrong in zip(Plan.named(NU_BOUND).cells, (1, 40, 2, 30), strict=True):
            put_translated(results, cell, seed, {1: wrong + seed})
    assert re.search(
        r"two differences\), PN: \+\S+ BLEU \[.*?\], 3 seeds, .*?, exploratory: better; PN as written: \+", said()
    )


@pytest.mark.slow
def test_the_figure_has_a_row_for_each_contrast_that_was_run(results: Path) -> None:
    findings = list(found(results).values())
    figure = forest(CONTRASTS_TITLE, findings)
    assert figure is not None
    assert_legible(figure)
    texts = written(figure)
    assert "better so far 3 seeds" in texts
    assert "no verdict 1 seed" in texts
    seeds = next(line for line in figure.axes[0].lines if line.get_marker() == "|")
    assert list(seeds.get_xdata()) == list(findings[0].difference.by_seed)
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == [each.difference.mean for each in findings if each.difference]
    assert [line.get_markerfacecolor() == "white" for line in dots] == [
        each.seeds == 1 for each in findings if each.difference
    ]


@pytest.mark.slow
def test_an_interval_that_is_far_wider_than_the_differences_ends_in_an_arrow(results: Path) -> None:
    each = found(results)["PN - LN"]
    wide = replace(each, difference=replace(each.difference, mean=0.5, low=-9.0, high=1.0))
    figure = forest(CONTRASTS_TITLE, [wide])
    assert figure is not None
    axis = figure.axes[0]
    assert axis.get_xlim() == (-4, 4)
    assert [(*line.get_xdata(), line.get_marker()) for line in axis.lines if line.get_marker() in "<>"] == [(-4, "<")]
    assert "reaches beyond the axis" in written(figure)


def test_no_figure_without_a_pair(tmp_path: Path) -> None:
    assert forest(CONTRASTS_TITLE, find(tmp_path)) is None


def test_a_record_without_translations_is_in_no_contrast(results: Path) -> None:
    put_translated(results, "pn_alg2", 1, {}, translations={})
    assert found(results)["PN as written - PN without group scaling"].verdict == "not run"


def test_broken_translations_are_named(results: Path) -> None:
    path = results / "runs/multi30k/ln/seed1.averaged.tsv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"seed1\.averaged\.tsv\.gz"):
        find(results)


@pytest.mark.slow
def test_the_contrasts_of_a_second_corpus_stand_beside_the_first(results: Path) -> None:
    primary = find(results, resamples=200)
    assert over_corpora(results, read_results(results), primary) is None
    for seed in (1, 2):
        put_translated(results, "pn", seed, {}, experiment="jaen")
    assert over_corpora(results, read_results(results), primary) is None, "a contrast needs both of its cells"
    for seed in (1, 2):
        put_translated(results, "ln", seed, {1: 60}, experiment="jaen")
    figure = over_corpora(results, read_results(results), primary)
    assert figure is not None
    assert_legible(figure)
    texts = written(figure)
    assert "PN - LN, multi30k" in texts
    assert "PN - LN, jaen" in texts
    assert "better so far 2 seeds" in texts
    assert "below the dotted line: exploratory contrasts" in texts
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    first = [name.endswith("jaen") for name in names].index(True)
    assert first - 0.5 in {line.get_ydata()[0] for line in figure.axes[0].lines}, "the dotted line"
    found = read_results(results)
    found.loc[(found["experiment"] == "jaen") & (found["norm"] == "pn"), "train_size"] = "9 training pairs"
    assert over_corpora(results, found, primary) is None, "its runs were trained on different texts"
