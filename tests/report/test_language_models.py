"""Perplexities: which number stands in which column, and that one that sees the future never passes for causal."""

import re

import pytest

from normplugins.report.records import read_results
from normplugins.utils.errors import UserError
from tests.helpers.records import language_model, put, put_diverged, scored

CODE, MASKED, PAPER = READINGS = ("reading=code: sees the future", "reading=masked", "reading=paper")
OURS = "ours, ppl"
SHORT_PTB = "PTB (ptb), shortened schedules (budget=cpu)"


def column(rows: dict[str, dict[str, str]], norm: str, heading: str = OURS) -> list[str]:
    """A column of the rows of a norm's readings; empty where a reading has no row."""
    return [rows.get(f"{norm}, {reading}", {}).get(heading, "") for reading in READINGS]


def test_each_reading_has_its_rows_with_seeds_spread_and_difference(page, tmp_path) -> None:
    for seed, ppl in enumerate((48.0, 48.5, 49.3), 1):
        put(tmp_path, language_model("ptb", "pn", seed, ppl))
    put(tmp_path, language_model("ptb", "ln", 1, 53.0))
    put(tmp_path, language_model("ptb", "pn,reading=masked", 1, 104.0))
    put(tmp_path, language_model("ptb", "ln,reading=masked", 1, 110.0))
    put(tmp_path, language_model("ptb", "pn,reading=paper", 1, 99.0))
    put(tmp_path, language_model("ptb", "pn_alg2,reading=masked", 1, 105.0))
    rows = page().rows("PTB")
    norms = ("LN (ln)", "BN (bn)", "BN (bn_released)", "PN-V (pnv)", "PN (pn)")
    published = [f"{norm}, {reading}" for reading in READINGS for norm in norms]
    assert list(rows) == [*published[:10], f"pn_alg2, {MASKED}", *published[10:]]
    # mean 48.6; deviations -0.6, -0.1, 0.7; sqrt(0.86 / 2) = 0.6557
    assert column(rows, "PN (pn)") == ["48.60 ± 0.66", "104.00", "99.00"]
    assert column(rows, "PN (pn)", "seeds") == ["3", "1", "1"]
    assert column(rows, "LN (ln)") == ["53.00", "110.00", "not run"]
    assert column(rows, "PN (pn)", "ours - LN") == ["-5.00", "-6.00", ""]
    assert column(rows, "LN (ln)", "ours - LN") == ["", "", ""]
    assert column(rows, "PN (pn)", "paper") == ["47.6 M"] * 3
    assert column(rows, "pn_alg2", "paper") == ["", "", ""], "it is not in the paper"
    assert column(rows, "PN (pn)", "paper - LN") == ["-5.6 S"] * 3
    # the factory's published count is 0.25 lower
    assert column(rows, "PN (pn)", "ppl, full segments")[:2] == ["48.35 ± 0.66", "103.75"]


def test_the_config_and_not_the_cells_name_chooses_the_row(page, tmp_path) -> None:
    for seed, (name, reading) in enumerate(
        (("", "masked"), (",reading=masked", "paper"), (",reading=paper", "code")), 1
    ):
        put(tmp_path, language_model("ptb", f"ln,reading={reading}", seed, 70.0 + seed) | {"variant": f"ln{name}"})
    put(tmp_path, language_model("ptb", "ln,model.causal=true", 2, 81.0))
    put(tmp_path, language_model("ptb", "ln,model.normalize_before=true", 1, 44.0))
    rows = page().rows("PTB")
    assert column(rows, "LN (ln)") == ["73.00", "76.00", "72.00"]
    assert rows["ln, pre-norm, unmasked: sees the future"][OURS] == "44.00", "none of the readings"


def test_the_last_checkpoint_stands_beside_the_one_that_is_scored(page, tmp_path) -> None:
    last = language_model("ptb", "ln", 1, 54.5)["metrics"]
    put(tmp_path, scored(language_model("ptb", "ln", 1, 53.0), {"last": {"test": last}}))
    put(tmp_path, scored(language_model("wikitext2", "ln", 1, 53.0), {"last": {"test": last}}))
    made = page()
    row, other = made.rows("PTB")[f"LN (ln), {CODE}"], next(iter(made.rows("wikitext2").values()))
    assert (row[OURS], row["last"]) == ("53.00", "54.50")
    assert list(other.items())[1:3] == [("ppl, best", "53.00"), ("ppl, last", "54.50")]


def test_nothing_is_claimed_of_the_papers_own_model(page) -> None:
    made = page()
    head = made.section("Table 2").replace("\n", " ")
    assert "It is not known which model the paper's Table 2 is about" in head
    assert "it is not known whether this holds for the paper's numbers" in head
    assert "not known" in made.terminal


@pytest.mark.parametrize(
    ("variant", "updates", "stopped_by", "label", "reading"),
    [
        ("ln,architecture=transformer,reading=paper", 20_000, "max_update", "ln, causal transformer, pre-norm", ""),
        ("ln,model.dropout=0.1,reading=masked", 20_000, "max_update", f"ln, {MASKED}, model.dropout=0.1", MASKED),
        ("ln,reading=paper", 9_000, "max_update", f"ln, {PAPER}, cut at 9,000 updates", PAPER),
    ],
)
def test_what_is_not_the_published_recipe_has_a_row_of_its_own(
    page, tmp_path, variant, updates, stopped_by, label, reading
) -> None:
    put(tmp_path, language_model("ptb", variant, 1, 77.0, updates, stopped_by))
    rows = page().rows("PTB")
    assert rows[label][OURS] == "77.00"
    assert rows[label]["paper"] == rows[label]["paper - LN"] == ""
    assert column(rows, "LN (ln)") == ["not in full" if each == reading else "not run" for each in READINGS]


def test_the_difference_to_ln_is_taken_between_one_kind_of_model_only(page, tmp_path) -> None:
    put(tmp_path, language_model("ptb", "ln", 1, 53.0))
    put(tmp_path, language_model("ptb", "pn,reading=masked", 1, 104.0))
    put(tmp_path, language_model("ptb", "pn,architecture=transformer", 1, 90.0))
    put(tmp_path, language_model("ptb", "ln,architecture=transformer", 1, 95.0))
    put(tmp_path, language_model("ptb", "ln,budget=cpu,reading=masked", 1, 300.0, updates=20_000))
    rows = page().rows("PTB")
    assert column(rows, "PN (pn)", "ours - LN") == ["", "", ""]
    assert rows["pn, causal transformer"]["ours - LN"] == "-5.00"


def test_shortened_schedules_have_a_table_of_their_own(page, tmp_path) -> None:
    for seed, ppl in enumerate((250.0, 252.0), 1):
        put(tmp_path, language_model("ptb", "ln,budget=cpu", seed, ppl, updates=1_500))
    put(tmp_path, language_model("ptb", "ln,budget=cpu,reading=masked", 1, 300.0, updates=1_500))
    put(tmp_path, language_model("ptb", "ln,budget=cpu,model.dropout=0.1", 1, 240.0, updates=1_500))
    put(tmp_path, language_model("ptb", "ln,architecture=transformer,budget=cpu", 1, 230.0, updates=1_200))
    made = page()
    rows = {name: (row["ppl, best"], row["seeds"], row["updates"]) for name, row in made.rows(SHORT_PTB).items()}
    assert rows == {
        f"ln, {CODE}": ("251.00", "2", "1,500"),
        f"ln, {CODE}, model.dropout=0.1": ("240.00", "1", "1,500"),
        f"ln, {MASKED}": ("300.00", "1", "1,500"),
        "ln, causal transformer": ("230.00", "1", "1,200"),
    }
    section = made.section(SHORT_PTB)
    assert "the published schedule takes 20,000 updates" in section
    assert "perplexity 620.5 on test and 650.2 on valid" in section
    assert column(made.rows("PTB"), "LN (ln)") == ["not in full", "not in full", "not run"]


def test_a_table_with_numbers_that_see_the_future_says_so_in_two_sentences(page, tmp_path) -> None:
    put(tmp_path, language_model("wikitext103", "ln,budget=cpu", updates=200))
    put(tmp_path, language_model("wikitext2", "ln"))
    put(tmp_path, language_model("other", "ln,reading=masked"))
    made = page()
    for heading in ("PTB (ptb)", "WikiText-103 (wikitext103)", "WikiText-103 (wikitext103), shortened", "wikitext2"):
        (note,) = [line for line in made.section(heading).splitlines() if line.startswith('- "Sees the future"')]
        assert len(re.findall(r"\.(?= |$)", note)) == 2
        assert "not the perplexity of a language model" in note
    assert "sees the future" not in made.section("other").lower()
    assert made.terminal.count('"Sees the future"') == 4


def test_a_corpus_of_running_text_has_tokens(page, tmp_path) -> None:
    put(tmp_path, language_model("ptb", "ln"))
    put(tmp_path, language_model("wikitext103", "ln", updates=200_000, note="1,234 of 103,227,021 train tokens"))
    made = page()
    assert "- Corpus: 929,589 training tokens." in made.section("PTB")
    assert "not the paper's corpus" in made.section("WikiText-103")
    assert made.rows("WikiText-103")[f"ln, {CODE}, another corpus"][OURS] == "50.00 [2]"
    assert "pairs" not in made.section("PTB")


def test_another_experiment_shows_both_counts_with_their_signatures_and_plain_labels(page, tmp_path) -> None:
    put(tmp_path, language_model("wikitext2", "pn", 1, 60.0))
    put(tmp_path, language_model("wikitext2", "pn,reading=masked", 1, 120.0))
    put(tmp_path, language_model("wikitext2", "pn,architecture=transformer,budget=cpu", 1, 300.0, updates=900))
    made = page()
    rows = made.rows("wikitext2")
    assert {name: (row["ppl, best"], row["ppl, full segments"]) for name, row in rows.items()} == {
        "pn, reading=code: sees the future": ("60.00", "59.75"),
        "pn, reading=masked": ("120.00", "119.75"),
        "pn, causal transformer, shortened to 900 updates": ("300.00", "299.75"),
    }
    section = made.section("wikitext2")
    counted = "`level:word|tokens:82430|segment:32|context:0|partial:counted|causal"
    assert f"- ppl (reading=code: sees the future): {counted}:no`" in section
    assert f"- ppl (reading=masked; causal transformer): {counted}:yes`" in section
    assert section.count("partial:dropped") == 2


def test_the_page_on_causality_is_linked_where_it_is(page, tmp_path) -> None:
    put(tmp_path, language_model("ptb", "ln"))
    assert "causality.md" not in page().text
    (tmp_path / "causality.md").write_text("# Causality\n")
    assert "(causality.md)" in page().section("Table 2")


@pytest.mark.parametrize(("experiment", "reading"), [("wikitext2", "code"), ("my_text", "masked")])
def test_the_config_of_a_run_that_diverged_chooses_its_row(page, tmp_path, experiment, reading) -> None:
    config = language_model(experiment, f"pn,reading={reading}")["config"] | {"model.norm": "pn"}
    put(tmp_path, language_model(experiment, "ln", 1, 60.0))
    put_diverged(tmp_path, experiment, "pn", 1, config)
    rows = page().rows(experiment)
    assert "60.00" in rows[f"ln, {CODE}"].values()
    assert "diverged" in rows[f"pn, {CODE if reading == 'code' else MASKED}"].values()


@pytest.mark.parametrize("key", ["model._name", "model.causal"])
def test_a_model_that_may_see_the_future_or_not_is_refused(page, tmp_path, key) -> None:
    content = language_model("ptb", "ln")
    del content["config"][key]
    path = put(tmp_path, content)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))} lacks the field {re.escape(key)}"):
        page()
    content["config"][key] = "another"
    put(tmp_path, content)
    if key == "model._name":
        with pytest.raises(UserError, match="unknown language model 'another'"):
            page()


def test_a_masked_model_whose_norm_sees_the_future_never_passes_for_causal(page, tmp_path) -> None:
    kinds = {"": 60.0, ",reading=masked": 70.0, ",architecture=transformer": 80.0, ",reading=paper": 90.0}
    for kind, ppl in kinds.items():
        put(tmp_path, language_model("ptb", "instance" + kind, 1, ppl))
        put(tmp_path, language_model("ptb", "ln" + kind, 1, ppl + 100))
    rows = {name: row for name, row in page().rows("PTB").items() if name.startswith("instance")}
    assert {name: (row[OURS], row["ours - LN"]) for name, row in rows.items()} == {
        "instance, reading=code: sees the future": ("60.00", "-100.00"),
        "instance, reading=masked, but its norm sees the future": ("70.00", ""),
        "instance, masked transformer, but its norm sees the future": ("80.00", ""),
        "instance, reading=paper, but its norm sees the future": ("90.00", ""),
    }


def test_without_a_score_the_label_or_the_norm_says_that_a_masked_model_is_not_causal(tmp_path) -> None:
    label = "not causal: its norm lets every position see the tokens after it"
    for norm, said in {"instance": label, "ln": ""}.items():
        content = language_model("ptb", f"{norm},reading=masked", 1, None) | {"label": said}
        put(tmp_path, content)
        put_diverged(tmp_path, "wikitext2", norm, 1, content["config"] | {"model.norm": norm})
    results = read_results(tmp_path)
    models = dict(zip(results["norm"] + results["diverged"].str[:6], results["model"], strict=True))
    seen = "reading=masked, but its norm sees the future"
    assert models == {"instance": seen, "ln": MASKED, "instanceupdate": seen, "lnupdate": MASKED}
