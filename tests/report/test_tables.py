"""The numbers, labels and rows of the tables, read from the page."""

from factory import CPU, GPU, put, record

from normplugins.report.parts import duration

IWSLT = "IWSLT14 de-en"


def iwslt(variant: str, bleu: float, seed: int = 1, **changes):
    return record("iwslt14", variant, seed, {"bleu": bleu, "sacrebleu": bleu - 1}, corpus="iwslt14", **changes)


def test_without_results_every_row_of_the_paper_says_not_run(page) -> None:
    made = page()
    perplexities = ("ours, ppl as published: sees the future", "ours, ppl causal")
    for heading, columns in (
        (IWSLT, ["ours, BLEU"]),
        ("WMT14 en-de", ["ours, BLEU, compounds split"]),
        ("PTB", perplexities),
        ("WikiText-103", perplexities),
    ):
        rows = made.rows(heading)
        assert list(rows) == ["LN (ln)", "BN (bn)", "PN-V (pnv)", "PN (pn)"]
        assert {row[column] for row in rows.values() for column in columns} == {"not run"}
        assert {row["seeds"] for row in rows.values()} == {""}
    assert "Other experiments" not in made.text


def test_the_papers_numbers_carry_their_marks(page) -> None:
    made = page()
    assert [row["paper"] for row in made.rows(IWSLT).values()] == ["35.5 D", "34.4 D", "unknown", "35.9 M"]
    assert [row["paper"] for row in made.rows("WMT14 en-de").values()] == ["29.5 D", "28.1 D", "unknown", "30.1 S"]
    assert [row["paper"] for row in made.rows("PTB").values()] == ["53.2 M", "60.7 M", "55.3 M", "47.6 M"]
    assert [row["paper"] for row in made.rows("WikiText-103").values()] == ["20.9 M", "27.2 M", "21.3 M", "17.9 M"]
    assert [row["paper - LN"] for row in made.rows(IWSLT).values()] == ["", "-1.1 D", "", "+0.4 S"]
    assert [row["paper - LN"] for row in made.rows("WMT14 en-de").values()] == ["", "-1.4 D", "", "+0.6 S"]
    assert made.rows("PTB")["PN (pn)"]["paper - LN"] == "-5.6 S"
    assert made.rows("WikiText-103")["PN (pn)"]["paper - LN"] == "-3.0 S"
    for meaning in ("S: seen in a source", "D: derived", "M: recalled and not confirmed"):
        assert meaning in made.text.replace("\n", " ")
        assert meaning in made.terminal


def test_mean_spread_and_difference_over_seeds(page, tmp_path) -> None:
    for seed, bleu in enumerate((35.0, 35.5, 36.3), 1):
        put(tmp_path, iwslt("pn", bleu, seed))
    put(tmp_path, iwslt("ln", 35.1))
    rows = page().rows(IWSLT)
    pn, ln = rows["PN (pn)"], rows["LN (ln)"]
    # mean 35.6; deviations -0.6, -0.1, 0.7; sqrt(0.86 / 2) = 0.6557
    assert (pn["ours, BLEU"], pn["spread"], pn["seeds"], pn["ours - LN"]) == ("35.60", "± 0.66", "3", "+0.50")
    assert pn["sacreBLEU"] == "34.60"
    assert (ln["ours, BLEU"], ln["spread"], ln["seeds"], ln["ours - LN"]) == ("35.10", "one seed", "1", "")


def test_updates_and_hardware_that_differ_between_seeds_are_all_said(page, tmp_path) -> None:
    put(tmp_path, iwslt("ln", 35.0, 1, updates=20_000, hardware=GPU))
    put(tmp_path, iwslt("ln", 35.0, 2, updates=21_000, hardware=CPU))
    row = page().rows(IWSLT)["LN (ln)"]
    assert row["updates"] == "20,000–21,000"
    assert row["hardware"] == "1 x NVIDIA H200; CPU, 2 threads"


def test_a_run_cut_short_is_not_put_beside_the_papers_number(page, tmp_path) -> None:
    put(tmp_path, iwslt("pn,optimization.max_update=150", 3.4, updates=150, stopped_by="max_update", epochs=1))
    rows = page().rows(IWSLT)
    assert rows["PN (pn)"]["ours, BLEU"] == "not run in full"
    cut = rows["pn, optimization.max_update=150"]
    assert cut["paper"] == cut["paper - LN"] == ""
    assert cut["ours, BLEU"] == "3.40, cut at 150 updates"
    assert cut["stopped by"] == "max_update"


def test_cut_short_by_epochs_counts_too_and_is_not_averaged_with_a_whole_run(page, tmp_path) -> None:
    put(tmp_path, iwslt("ln", 35.0, 1))
    put(tmp_path, iwslt("ln", 20.0, 2, updates=4_000, stopped_by="max_epoch"))
    rows = page().rows(IWSLT)
    assert rows["LN (ln)"]["ours, BLEU"] == "35.00"
    assert rows["ln"]["ours, BLEU"] == "20.00, cut at 4,000 updates"
    assert rows["ln"]["ours - LN"] == ""


def test_wmt14_is_compared_by_bleu_with_compounds_split(page, tmp_path) -> None:
    scores = {"bleu_compound": 30.0, "sacrebleu": 28.5}
    put(tmp_path, record("wmt14", "pn", metrics=scores, stopped_by="patience", epochs=40))
    put(tmp_path, record("wmt14", "ln", metrics={"bleu_compound": 9.0}, stopped_by="max_epoch", epochs=2, updates=800))
    put(tmp_path, record("wmt14", "bn,evaluate.split_compounds=false", metrics={"bleu": 27.0, "sacrebleu": 26.0}))
    made = page()
    ours, rows = "ours, BLEU, compounds split", made.rows("WMT14 en-de")
    pn = rows["PN (pn)"]
    assert (pn["paper"], pn[ours], pn["sacreBLEU"]) == ("30.1 S", "30.00", "28.50")
    assert rows["LN (ln)"][ours] == "not run in full"
    assert rows["ln"][ours] == "9.00, cut at 800 updates"
    assert rows["bn, evaluate.split_compounds=false"][ours] == "not scored"  # plain BLEU is another metric
    assert "BLEU (tokenised, hyphenated compounds split): `nrefs:1" in made.section("WMT14 en-de")


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
    assert rows["BN (bn)"]["ours - LN"] == ""  # other training pairs
    assert rows["pn, norm.groups=1"]["ours - LN"] == "-1.00"  # LN has no such setting
    assert rows["pn, optimization.lr=0.1"]["ours - LN"] == ""  # no LN with this setting
    assert rows["pn, model.dropout=0.1"]["ours - LN"] == "+2.00"


def test_another_corpus_is_a_footnote_on_the_number(page, tmp_path) -> None:
    put(tmp_path, iwslt("ln", 25.0, note="48,880 of 160,239 train pairs"))
    put(tmp_path, iwslt("pn", 35.9, note=""))
    made = page()
    rows = made.rows(IWSLT)
    assert rows["LN (ln)"]["ours, BLEU"] == "25.00 [1]"
    assert rows["PN (pn)"]["ours, BLEU"] == "35.90"
    assert "- [1] Corpus: 48,880 of 160,239 train pairs, not the paper's corpus" in made.section(IWSLT)
    assert "48,880 of 160,239 train pairs" in made.terminal


def test_runs_on_different_corpora_are_not_averaged(page, tmp_path) -> None:
    put(tmp_path, iwslt("ln", 25.0, 1, note="48,880 of 160,239 train pairs"))
    put(tmp_path, iwslt("ln", 35.5, 2))
    rows = page().rows(IWSLT)
    assert rows["LN (ln)"]["ours, BLEU"] == "35.50"
    assert rows["ln"]["ours, BLEU"] == "25.00 [1]"


def test_norms_outside_the_paper_follow_in_the_fixed_order(page, tmp_path) -> None:
    for variant in ("mine", "group", "pn_alg2", "rms", "none", "bn_released", "pn,optimization.lr=0.001"):
        put(tmp_path, iwslt(variant, 30.0))
        put(tmp_path, record("multi30k", variant))
    for variant in ("pnv", "pn", "ln", "bn"):
        put(tmp_path, record("multi30k", variant))
    made = page()
    others = ["pn_alg2", "rms", "group", "none", "mine"]
    assert list(made.rows(IWSLT)) == [
        "LN (ln)",
        "BN (bn)",
        "bn_released",
        "PN-V (pnv)",
        "PN (pn)",
        "pn, optimization.lr=0.001",
        *others,
    ]
    assert made.rows(IWSLT)["pn_alg2"]["paper"] == ""
    assert list(made.rows("multi30k")) == [
        "ln",
        "bn",
        "bn_released",
        "pnv",
        "pn",
        "pn, optimization.lr=0.001",
        *others,
    ]


def test_an_experiment_of_ones_own_has_its_table(page, tmp_path) -> None:
    scores = {"bleu": 20.0, "sacrebleu": 18.5}
    put(tmp_path, record("mine", "bn", 1, scores, corpus="custom", wall_seconds=840, words_per_second=1500))
    put(tmp_path, record("mine", "bn", 2, {"bleu": 22.0, "sacrebleu": 19.5}, corpus="custom", wall_seconds=900))
    made = page()
    row = made.rows("mine")["bn"]
    assert (row["BLEU"], row["spread"], row["sacreBLEU"], row["seeds"]) == ("21.00", "± 1.41", "19.00", "2")
    assert (row["updates"], row["words/s"], row["training time"]) == ("1,200", "1,500", "14 min–15 min")
    assert row["hardware"] == "CPU, 2 threads"
    assert "normplugins run custom experiment=mine norm=NORM seed=K" in made.section("mine")
    assert "`nrefs:1|case:mixed|eff:no|tok:none|smooth:exp|version:2.6.0`" in made.section("mine")
    assert "2 x Some Processor, 2 threads, 8 GB" in made.section("mine")


def test_the_best_validation_perplexity_is_the_lowest_of_the_curve(page, tmp_path) -> None:
    content = record("demo")
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
    assert "- BLEU (tokenised) (pn): `nrefs:1|tok:none|version:9`" in section
    assert "- BLEU (tokenised) (ln): `nrefs:1|case:mixed" in section
    assert section.count("- sacreBLEU") == 1


def test_a_run_without_curves_has_a_row_and_no_figure(page, tmp_path) -> None:
    content = record("demo")
    content["curves"] = {"train": [], "valid": []}
    put(tmp_path, content)
    made = page()
    assert made.rows("demo")["ln"]["best valid ppl"] == ""
    assert "figures/demo.png" not in made.text
    assert not (tmp_path / "figures").exists()


def test_durations_are_for_people() -> None:
    assert [duration(seconds) for seconds in (5.2, 59, 60, 899, 3599.9, 7500)] == [
        "5 s",
        "59 s",
        "1 min",
        "15 min",
        "1 h 00 min",
        "2 h 05 min",
    ]


def test_a_run_that_was_not_translated_says_so(tmp_path, page) -> None:
    put(tmp_path, record("iwslt14", "ln", metrics={}, stopped_by="max_update", updates=120))
    put(tmp_path, record("mine", "ln", metrics={}))
    made = page()
    assert made.rows(IWSLT)["ln"]["ours, BLEU"] == "not scored, cut at 120 updates"
    assert made.rows("mine")["ln"]["BLEU"] == "not scored"
