"""The numbers, labels and rows of the tables, read from the page."""

import pytest

from normplugins.norms import known_norms
from normplugins.report.cells import duration
from normplugins.report.paper import CORPORA
from tests.helpers.records import CPU, GPU, language_model, put, put_diverged, record, scored, translated

IWSLT, OURS = "IWSLT14 de-en", "ours, BLEU, averaged"


def iwslt(variant: str, bleu: float, seed: int = 1, **changes):
    return record("iwslt14", variant, seed, {"bleu": bleu, "sacrebleu": bleu - 1}, corpus="iwslt14", **changes)


def test_without_results_every_row_of_the_paper_says_not_run(page) -> None:
    made = page()
    for heading, column, which in (
        (IWSLT, OURS, ""),
        ("WMT14 en-de", "ours, BLEU, compounds split, averaged", ""),
        ("PTB", "ours, ppl", ", each reading"),
        ("WikiText-103", "ours, ppl", ", each reading"),
    ):
        rows = made.rows(heading)
        assert [name.split("(")[1] for name in rows] == [
            f"{norm}){which}" for norm in ("ln", "bn", "bn_released", "pnv", "pn")
        ]
        assert {row[column] for row in rows.values()} == {"not run"}
        assert {row["seeds"] for row in rows.values()} == {""}


def test_the_papers_numbers_carry_their_marks(page) -> None:
    made = page()
    for corpus in CORPORA.values():
        for name, row in made.rows(corpus.title).items():
            paper = name.partition(" (")[0]
            assert row["paper"].partition(" [")[0] == corpus.numbers.get(paper, "unknown")
            assert row["paper - LN"] == corpus.differences.get(paper, "")
    for meaning in ("S: seen in a source", "D: derived", "M: recalled and not confirmed"):
        assert meaning in made.text.replace("\n", " ")
        assert meaning in made.terminal


def test_mean_spread_and_difference_over_seeds(page, tmp_path) -> None:
    for seed, bleu in enumerate((35.0, 35.5, 36.3), 1):
        put(tmp_path, iwslt("pn", bleu, seed))
    put(tmp_path, iwslt("ln", 35.1))
    put(tmp_path, iwslt("bn", 30.1))
    put(tmp_path, iwslt("ln", 35.2, 2))
    put(tmp_path, iwslt("ln", 35.9, 3))
    made = page()
    rows = made.rows(IWSLT)
    bn, pn, ln = rows["BN (bn)"], rows["PN (pn)"], rows["LN (ln)"]
    # mean 35.6; deviations -0.6, -0.1, 0.7; sqrt(0.86 / 2) = 0.6557
    assert (pn[OURS], pn["seeds"], pn["sacreBLEU"]) == ("35.60 ± 0.66", "3", "34.60 ± 0.66")
    # the differences -0.1, +0.3 and +0.4 have the standard error sqrt(0.14 / 2 / 3) = 0.1528; t(2) = 4.303
    assert pn["ours - LN"] == "+0.20 [-0.46, +0.86]"
    assert bn["ours - LN"] == "-5.00", "one seed has no interval"
    assert "its 95 % interval by Student's t over these seeds" in made.section(IWSLT)
    assert (ln[OURS], ln["seeds"], ln["ours - LN"]) == ("35.40 ± 0.44", "3", "")


def test_a_run_of_another_recipe_is_not_called_cut(page, tmp_path) -> None:
    put(tmp_path, record("iwslt14", "pn,recipe=un", stopped_by="max_update", updates=100_000))
    assert "pn, recipe=un" in page().rows(IWSLT)


def test_updates_and_hardware_that_differ_between_seeds_are_all_said(page, tmp_path) -> None:
    put(tmp_path, iwslt("ln", 35.0, 1, updates=20_000, hardware=GPU))
    put(tmp_path, iwslt("ln", 35.0, 2, updates=21_000, hardware=CPU))
    row = page().rows(IWSLT)["LN (ln)"]
    assert row["updates"] == "20,000–21,000"
    assert row["hardware"] == "1 x NVIDIA H200; CPU (Some)"


def test_rows_of_another_version_of_the_code_are_named(page, tmp_path) -> None:
    for variant, version in (("ln", "0.2.0"), ("bn", "0.2.0"), ("pn", "0.3.0")):
        put(tmp_path, record("demo", variant) | {"versions": {"normplugins": version}})
    assert "- Version of the code: 0.2.0, except pn (0.3.0)." in page().section("demo")


def test_a_run_cut_short_is_neither_put_beside_the_papers_number_nor_averaged_with_a_whole_run(page, tmp_path) -> None:
    put(tmp_path, iwslt("pn,optimization.max_update=150", 3.4, updates=150, stopped_by="max_update", epochs=1))
    put(tmp_path, iwslt("ln", 35.0, 1))
    put(tmp_path, iwslt("ln", 20.0, 2, updates=4_000, stopped_by="max_epoch"))
    rows = page().rows(IWSLT)
    assert rows["PN (pn)"][OURS] == "not in full"
    cut = rows["pn, optimization.max_update=150, cut at 150 updates"]
    assert cut["paper"] == cut["paper - LN"] == ""
    assert cut[OURS] == "3.40"
    assert cut["stopped by"] == "max_update"
    assert rows["LN (ln)"][OURS] == "35.00"
    assert rows["ln, cut at 4,000 updates"][OURS] == "20.00"
    assert "ours - LN" not in rows["LN (ln)"], "no two cells that may be compared"


def test_wmt14_of_any_number_of_processes_stands_beside_the_paper_but_is_not_averaged_with_another(
    page, tmp_path
) -> None:
    recipe = {"config": {"train.batches_per_update": 128}}
    for variant, bleu in (("pn,processes=8", 29.0), ("pn,processes=128", 31.0), ("ln", 28.5)):
        made = record("wmt14", variant, metrics={"bleu_compound": bleu}, stopped_by="patience", epochs=40)
        put(tmp_path, made | {"config": made["config"] | recipe["config"]})
    rows = page().rows("WMT14 en-de")
    scores = {name: row["ours, BLEU, compounds split, averaged"] for name, row in rows.items() if "pn" in name}
    assert scores == {"PN-V (pnv)": "not run", "PN (pn)": "31.00", "pn, norm.processes=8": "29.00"}
    assert rows["PN (pn)"]["ours - LN"] == "+2.50"


def test_wmt14_is_compared_by_bleu_with_compounds_split(page, tmp_path) -> None:
    scores = {"bleu_compound": 30.0, "sacrebleu": 28.5}
    put(tmp_path, record("wmt14", "pn", metrics=scores, stopped_by="patience", epochs=40))
    put(tmp_path, record("wmt14", "ln", metrics={"bleu_compound": 9.0}, stopped_by="max_epoch", epochs=2, updates=800))
    put(tmp_path, record("wmt14", "bn,evaluate.split_compounds=false", metrics={"bleu": 27.0, "sacrebleu": 26.0}))
    made = page()
    ours, rows = "ours, BLEU, compounds split, averaged", made.rows("WMT14 en-de")
    pn = rows["PN (pn)"]
    assert (pn["paper"], pn[ours], pn["sacreBLEU"]) == ("30.1 S", "30.00", "28.50")
    assert rows["LN (ln)"][ours] == "not in full"
    assert rows["ln, cut at 800 updates"][ours] == "9.00"
    assert rows["bn, evaluate.split_compounds=false"][ours] == "not scored"  # plain BLEU is another metric
    assert "BLEU, compounds split (tokenized): `nrefs:1" in made.section("WMT14 en-de")


def test_the_difference_to_ln_is_taken_between_equals_only(page, tmp_path) -> None:
    part = "48,880 of 160,239 train pairs"
    put(tmp_path, iwslt("ln", 35.0))
    put(tmp_path, iwslt("bn", 30.0, note=part))
    put(tmp_path, iwslt("pn", 36.0))
    put(tmp_path, iwslt("pn,norm.groups=1", 34.0))
    put(tmp_path, iwslt("pn,optimization.lr=0.1", 10.0))
    put(tmp_path, iwslt("ln,model.dropout=0.1", 31.0))
    put(tmp_path, iwslt("pn,model.dropout=0.1", 33.0))
    rows = page().rows(IWSLT)
    assert rows["PN (pn)"]["ours - LN"] == "+1.00"
    assert rows["bn, another corpus"]["ours - LN"] == ""  # other training pairs
    assert rows["pn, norm.groups=1"]["ours - LN"] == "-1.00"  # LN has no such setting
    assert rows["pn, optimization.lr=0.1"]["ours - LN"] == ""  # no LN with this setting
    assert rows["pn, model.dropout=0.1"]["ours - LN"] == "+2.00"


def test_another_corpus_is_a_footnote_on_the_number(page, tmp_path) -> None:
    put(tmp_path, iwslt("ln", 25.0, 1, note="48,880 of 160,239 train pairs"))
    put(tmp_path, iwslt("ln", 35.5, 2))
    put(tmp_path, iwslt("pn", 34.0, note="48,880 of 160,239 train pairs"))
    made = page()
    rows = made.rows(IWSLT)
    assert rows["LN (ln)"][OURS] == "35.50", "runs on different corpora are not averaged"
    assert rows["ln, another corpus"][OURS] == "25.00 [3]"
    assert rows["PN (pn)"][OURS] == "not in full"
    assert "- [3] Corpus: 48,880 of 160,239 train pairs, not the paper's corpus" in made.section(IWSLT)
    assert "48,880 of 160,239 train pairs" in made.terminal


def test_norms_outside_the_paper_follow_in_the_registrys_order(page, tmp_path) -> None:
    for variant in ("mine", "group", "pn_alg2", "rms", "none", "bn_released", "pn,optimization.lr=0.001"):
        put(tmp_path, iwslt(variant, 30.0))
        put(tmp_path, record("demo", variant))
    for variant in ("pnv", "pn", "ln", "bn"):
        put(tmp_path, record("demo", variant))
    made = page()
    others = [*(norm for norm in known_norms() if norm in ("pn_alg2", "rms", "group", "none")), "mine"]
    others.insert(0, "pn, optimization.lr=0.001")
    assert list(made.rows(IWSLT)) == ["LN (ln)", "BN (bn)", "BN (bn_released)", "PN-V (pnv)", "PN (pn)", *others]
    assert made.rows(IWSLT)["pn_alg2"]["paper"] == ""
    assert list(made.rows("demo")) == ["ln", "bn", "bn_released", "pnv", "pn", *others]


def test_an_experiment_of_ones_own_has_its_table(page, tmp_path) -> None:
    scores = {"bleu": 20.0, "sacrebleu": 18.5}
    put(tmp_path, record("mine", "bn", 1, scores, corpus="custom"))
    put(tmp_path, record("mine", "bn", 2, {"bleu": 22.0, "sacrebleu": 19.5}, corpus="custom"))
    made = page()
    row = made.rows("mine")["bn"]
    assert (row["BLEU, averaged"], row["sacreBLEU"], row["seeds"]) == ("21.00", "19.00", "2")
    assert row["updates"] == "1,200"
    assert "words/s" not in row  # the machine may have had other work
    assert row["hardware"] == "CPU (Some)"
    assert "`nrefs:1|case:mixed|eff:no|tok:none|smooth:exp|version:2.6.0`" in made.section("mine")
    assert "2 CPUs of Some Processor, 2 threads, 8 GB" in made.section("mine")


def test_the_best_validation_perplexity_is_the_lowest_of_the_curve(page, tmp_path) -> None:
    content = record("demo", floor=4.0)
    for point, ppl in zip(content["curves"]["valid"], [90, 30, 7.25, 8, *[9] * 8], strict=True):
        point["ppl"] = ppl
    put(tmp_path, content)
    assert page().rows("demo")["ln"]["best valid ppl"] == "7.25"


def test_signatures_that_differ_say_whose_they_are(page, tmp_path) -> None:
    put(tmp_path, record("demo", "ln"))
    other = record("demo", "pn")
    other["metrics"]["bleu"]["signature"] = "nrefs:1|tok:none|version:9"
    put(tmp_path, other)
    section = page().section("demo")
    assert "- BLEU (tokenized) (pn): `nrefs:1|tok:none|version:9`" in section
    assert "- BLEU (tokenized) (ln): `nrefs:1|case:mixed" in section
    assert section.count("- sacreBLEU") == 1


def test_a_run_without_curves_has_a_row_and_no_figure(page, tmp_path) -> None:
    put(tmp_path, record("demo"))
    made = page()
    assert "best valid ppl" not in made.rows("demo")["ln"]
    assert "figures/demo.png" not in made.text
    assert not (tmp_path / "figures").exists()


def test_runs_that_diverged_are_counted_in_their_row(page, tmp_path) -> None:
    put(tmp_path, iwslt("pn", 35.0, 1))
    put_diverged(tmp_path, "iwslt14", "pn", 2)
    put_diverged(tmp_path, "iwslt14", "pn_alg2", 1)
    put_diverged(tmp_path, "ptb", "bn,reading=masked", 1, language_model("ptb", "bn,reading=masked")["config"])
    made = page()
    rows = made.rows(IWSLT)
    assert (rows["PN (pn)"][OURS], rows["PN (pn)"]["seeds"]) == ("35.00", "1 (1 of 2 diverged)")
    assert (rows["pn_alg2"][OURS], rows["pn_alg2"]["seeds"]) == ("diverged", "0 (1 of 1 diverged)")
    assert made.rows("PTB")["BN (bn), reading=masked"]["ours, ppl"] == "diverged"


def test_durations_are_for_people() -> None:
    texts = {5.2: "5 s", 59: "59 s", 60: "1 min", 899: "15 min", 3599.9: "1 h 00 min", 7500: "2 h 05 min"}
    assert {seconds: duration(seconds) for seconds in texts} == texts


def test_a_run_that_was_not_translated_says_so(tmp_path, page) -> None:
    put(tmp_path, record("iwslt14", "ln", metrics={}, stopped_by="max_update", updates=120))
    put(tmp_path, record("mine", "ln", metrics={}))
    made = page()
    assert made.rows(IWSLT)["ln, cut at 120 updates"][OURS] == "not scored"
    assert made.rows("mine")["ln"]["BLEU, averaged"] == "not scored"


def checkpoints(variant: str, seed: int, averaged: float, last: float, best: float, experiment="multi30k", **changes):
    """A record with the BLEU of three checkpoints."""
    content = record(experiment, variant, seed, {"bleu": averaged, "chrf2": 55.0, "ter": 45.0}, **changes)
    return scored(
        content, {name: {"test": translated({"bleu": bleu})} for name, bleu in (("last", last), ("best", best))}
    )


@pytest.mark.slow
def test_the_last_and_the_best_checkpoint_stand_beside_the_averaged(page, tmp_path) -> None:
    for seed, shift in enumerate((0.0, 1.0, 2.0), 1):
        for experiment in ("multi30k", "iwslt14"):
            put(tmp_path, checkpoints("pn", seed, 35 + shift, 36 + shift, 37 + shift, experiment))
    put(tmp_path, iwslt("ln", 35.5))
    made = page()
    found = ["36.00 ± 1.00", "37.00 ± 1.00", "38.00 ± 1.00"]
    row = made.rows("multi30k")["pn"]
    assert [row[f"BLEU, {name}"] for name in ("averaged", "last", "best")] == found
    rows = made.rows(IWSLT)
    assert [rows["PN (pn)"][column] for column in (OURS, "last", "best")] == found
    assert [rows["LN (ln)"][column] for column in (OURS, "last", "best")] == ["35.50", "not scored", "not scored"]


def test_the_brevity_penalty_is_the_mean_over_seeds(page, tmp_path) -> None:
    for seed, penalty in enumerate((0.95, 0.97), 1):
        put(tmp_path, iwslt("pn", 35.0, seed, brevity=penalty))
        put(tmp_path, record("demo", "pn", seed, brevity=penalty))
    made = page()
    assert made.rows(IWSLT)["PN (pn)"]["brevity penalty"] == made.rows("demo")["pn"]["brevity penalty"] == "0.960"


@pytest.mark.slow
def test_each_test_set_and_the_other_metrics_have_a_table_of_their_own(page, tmp_path) -> None:
    sets = {"flickr2017": translated({"bleu": 33.0}), "mscoco2017": translated({"bleu": 29.0})}
    content = record("multi30k", "pn", 1, {"bleu": 35.0, "chrf2": 55.0, "ter": 45.0})
    put(tmp_path, scored(content, {}, **sets))
    put(tmp_path, record("multi30k", "ln"))
    put(tmp_path, record("demo", "ln"))
    made = page()
    details = made.rows("multi30k: each test set")
    assert (details["pn"]["BLEU, flickr2017"], details["pn"]["BLEU, mscoco2017"]) == ("33.00", "29.00")
    assert (details["pn"]["chrF2"], details["pn"]["TER"]) == ("55.00", "45.00")
    assert details["ln"]["BLEU, flickr2017"] == "not scored"
    assert "flickr2017" not in "".join(made.rows("multi30k")["pn"])
    assert "demo:" not in made.text, "the first table shows all that there is"


def test_a_detail_that_is_the_same_in_all_rows_is_said_once(page, tmp_path) -> None:
    put(tmp_path, record("demo", "ln", updates=700, stopped_by="max_epoch"))
    put(tmp_path, record("demo", "pn", updates=728, stopped_by="max_epoch"))
    made = page()
    rows = made.rows("demo")
    assert (rows["ln"]["updates"], rows["pn"]["updates"]) == ("700", "728")
    assert "stopped by" not in rows["ln"]
    assert made.section("demo").count("stopped by max_epoch") == 1


@pytest.mark.slow
def test_settings_of_all_runs_are_said_once_and_not_in_each_row(page, tmp_path) -> None:
    for variant in ("ln,optimization.max_epoch=8", "pn,norm.groups=2,optimization.max_epoch=8"):
        put(tmp_path, record("demo", variant, 1, {"bleu": 30.0, "ter": 50.0}))
    put_diverged(tmp_path, "demo", "bn,optimization.max_epoch=8", 1)
    made = page()
    assert set(made.rows("demo")) == {"ln", "bn", "pn, norm.groups=2"}
    assert set(made.rows("demo: TER")) == {"ln", "pn, norm.groups=2"}
    for heading in ("demo", "demo: TER"):
        assert "- All runs: optimization.max_epoch=8." in made.section(heading)
    put(tmp_path, record("demo", "rms", 1, {"bleu": 30.0}))
    assert "ln, optimization.max_epoch=8" in page().rows("demo")


def test_one_seed_orders_nothing(page, tmp_path) -> None:
    for norm in ("ln", "pn"):
        put(tmp_path, record("demo", norm))
        for seed in (1, 2):
            put(tmp_path, record("multi30k", norm, seed))
    put(tmp_path, record("mine", "ln"))
    made = page()
    assert "only one seed, which gives no verdict" in made.section("demo")
    for experiment in ("multi30k", "mine"):
        assert "one seed" not in made.section(experiment), "seeds enough, or nothing to order"


def test_bn_as_released_and_the_usual_one_stand_beside_the_same_number(page) -> None:
    made = page()
    for heading in (IWSLT, "WMT14 en-de", "PTB", "WikiText-103"):
        papers = {row["paper"] for name, row in made.rows(heading).items() if name.startswith("BN (bn")}
        assert len(papers) == 1
        mark = papers.pop().partition(" [")[2]
        (note,) = [line for line in made.section(heading).splitlines() if line.startswith(f"- [{mark}")]
        assert "`bn_released`" in note


def test_a_record_is_scored_by_the_checkpoint_that_it_names(page, tmp_path) -> None:
    content = checkpoints("ln,evaluate.average=null", 1, 35.0, 36.0, 37.0)
    content["scores"]["best"] = content["scores"].pop("averaged")
    put(tmp_path, content | {"scored_by": "best"})
    row = page().rows("multi30k")["ln, evaluate.average=null"]
    assert (row["BLEU, best"], row["BLEU, last"]) == ("35.00", "36.00")
    assert "BLEU, averaged" not in row
