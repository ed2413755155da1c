"""The page of claims: verdicts follow from the records."""

import json
import re
from pathlib import Path

import pytest

from normplugins.report.claims import claims_page
from normplugins.report.contrasts import find
from normplugins.report.plans import NU_BOUND, Plan
from normplugins.report.probe_table import probe_table
from normplugins.report.records import read_results
from tests.helpers.records import language_model, put, put_diverged, put_translated


def layer(**numbers: float) -> dict[str, float]:
    return {"grad_input": 1.0, "grad_product": 2.0, "pnv_bound_smaller": 0.9, **numbers}


def probe(**numbers: float) -> list[dict]:
    return [{"update": update, "layers": {"encoder.layers.0.self_attention.norm": layer(**numbers)}}
            for update in (100, 1000)]  # fmt: skip


@pytest.fixture
def page(tmp_path: Path):
    def made() -> str:
        primary, probed = find(tmp_path, resamples=200), probe_table(tmp_path)
        return claims_page(tmp_path, primary, probed, read_results(tmp_path), set())

    return made


@pytest.fixture
def verdicts(page):
    return lambda: dict(re.findall(r"^## (.*)\n\nVerdict: \*\*(.*?)\*\*", page(), re.MULTILINE))


def test_without_records_nothing_is_claimed(verdicts) -> None:
    assert set(verdicts().values()) == {"not run"}


def test_scores_decide(tmp_path: Path, verdicts) -> None:
    for seed in (1, 2, 3):
        put_translated(tmp_path, "ln", seed, {1: 60 - seed})
        put_translated(tmp_path, "pn", seed, {})
        put_translated(tmp_path, "bn", seed, {})
        put_translated(tmp_path, "rms,norm.groups=4", seed, {2: 30 * seed - 30})
    found = verdicts()
    assert found["PN beats LN in translation (here: Multi30k)"] == "holds so far"
    assert found["BN is worse than LN in translation (here: Multi30k, textbook BN)"] == "does not hold so far"
    assert found["Running statistics improve on scaling each token alone"] == "undecided so far"
    assert found["PN beats PN-V with group scaling"] == "not run"


def test_no_rule_judges_the_perplexities_of_the_paper(tmp_path: Path, page, verdicts) -> None:
    (claim,) = (text for text in verdicts() if text.startswith("PN's perplexity is lower than LN's"))
    experiment, cell = next((name, cell) for name, cell in Plan.named("gpu").cells if name == "ptb")
    put_diverged(tmp_path, experiment, cell, 1)
    assert verdicts()[claim] == "not run", "a run that diverged has no perplexity"
    put(tmp_path, language_model(experiment, cell))
    assert verdicts()[claim] == "undecided"
    assert "no rule judges them" in page()


def test_an_equivalent_contrast_says_how_small_the_difference_is(tmp_path: Path, page) -> None:
    for seed in (1, 2, 3):
        put_translated(tmp_path, "pn", seed, {})
        put_translated(tmp_path, "rms,norm.groups=4", seed, {})
    said = page().partition("\n## Running statistics improve on scaling each token alone\n")[2].partition("\n## ")[0]
    assert "**does not hold so far**" in said
    assert "The whole interval lies within ±0.4 BLEU" in said


def test_the_claim_on_group_scaling_also_shows_the_runs_of_half_the_epochs(tmp_path: Path, page) -> None:
    def said() -> str:
        return page().partition("\n## Group scaling improves PN\n")[2].partition("\n## ")[0]

    assert "half the epochs" not in said()
    (_, scaled), (_, plain), *_ = Plan.named(NU_BOUND).cells
    for seed in (1, 2, 3):
        put_translated(tmp_path, "pn", seed, {})
        put_translated(tmp_path, "pn,norm.group_scaling=false", seed, {1: 10 * seed})
        put_translated(tmp_path, scaled, seed, {1: seed})
        put_translated(tmp_path, plain, seed, {1: 40 + seed})
    assert re.search(r"In the runs of half the epochs .*: \+.* 3 seeds, .*, exploratory: better\. Runs: ", said())
    assert f"{scaled} seed [1](<runs/multi30k/{scaled}/seed1.md>)" in said()


def test_a_contrast_names_the_runs_that_it_compares(tmp_path: Path, page) -> None:
    for seed in (1, 2):
        put_translated(tmp_path, "pn", seed, {})
    put_translated(tmp_path, "rms,norm.groups=4", 1, {1: 9})
    said = page().partition("\n## Running statistics improve on scaling each token alone\n")[2].partition("\n## ")[0]
    assert re.findall(r"([\w,.=]+) seed \[(\d)\]", said) == [("pn", "1"), ("rms,norm.groups=4", "1")]
    assert "pn seed [1](<runs/multi30k/pn/seed1.md>)" in said


def test_the_probe_decides(tmp_path: Path, verdicts) -> None:
    put_translated(tmp_path, "bn", 1, {}, statistics_probe=probe(deviation_tid=0.1))
    put_translated(tmp_path, "pn", 1, {}, statistics_probe=probe(nu=1.0))
    found = verdicts()
    assert found["PN-V's gradient is smaller than BN's in every channel"] == "does not hold", "one channel refutes it"
    assert found["The approximate backward pass keeps its gradients bounded (here: by the bound of ν)"] == "not run", (
        "the plan has no run"
    )
    moving = "Moving averages approach the batch's statistics"
    assert found[moving] == "undecided so far", "one seed is too few"
    put_translated(tmp_path, "pn", 1, {}, statistics_probe=probe(nu=None))
    assert (
        verdicts()["The approximate backward pass keeps its gradients bounded (here: by the bound of ν)"]
        == "does not hold"
    )


@pytest.mark.parametrize(
    ("seeds", "largest", "verdict"),
    [(3, 1.5, "holds"), (2, 1.5, "undecided so far"), (3, 2.5, "undecided"), (3, None, "does not hold")],
)
def test_nu_is_judged_by_its_size_at_every_update(tmp_path: Path, verdicts, seeds, largest, verdict) -> None:
    for _, cell in Plan.named(NU_BOUND).cells:
        for seed in range(1, seeds + 1):
            epochs = [{"update": 500, "epoch": 1, "loss": 3.0, "largest_nu": 0.5},
                      {"update": 1000, "epoch": 2, "loss": 3.0, "largest_nu": largest}]  # fmt: skip
            curves = {"train": [], "valid": epochs}
            put_translated(tmp_path, cell, seed, {}, statistics_probe=probe(nu=0.1, grad_product=2.0), curves=curves)
    assert verdicts()["The approximate backward pass keeps its gradients bounded (here: by the bound of ν)"] == verdict


@pytest.mark.parametrize(
    ("bn", "pnv", "verdict"),
    [((-0.05, -0.04, -0.05), (-0.02, -0.03, -0.02), "holds so far"),
     ((-0.05, -0.04, -0.05), (-0.02, 0.03, -0.01), "undecided so far"),
     ((-0.05, -0.04, -0.05), (0.02, 0.03, 0.02), "does not hold so far")],
)  # fmt: skip
def test_moving_averages_are_judged_by_the_interval_over_seeds(tmp_path: Path, verdicts, bn, pnv, verdict) -> None:
    for cell, number, changes in (("bn", "deviation_tid", bn), ("pnv", "psi_tid", pnv)):
        for seed, change in enumerate(changes, 1):
            measured = probe(**{number: 0.1})
            measured[-1]["layers"] = probe(**{number: 0.1 + change})[-1]["layers"]
            put_translated(tmp_path, cell, seed, {}, statistics_probe=measured)
    assert verdicts()["Moving averages approach the batch's statistics"] == verdict


def test_batch_statistics_are_compared_with_those_of_a_resnet(tmp_path: Path, page, verdicts) -> None:
    distances = dict.fromkeys(("mean_tid", "mean_distance", "deviation_tid", "variance_distance"), 0.1)
    points = [{"update": 1000, "tokens": 131072.0, **distances}]
    record = {"seed": 1, "corpus": {"images": 9, "published": False}, "points": points}
    (tmp_path / "vision_statistics.json").write_text(json.dumps(record))
    larger = {"tokens": 2000.0} | {name: 2 * value for name, value in distances.items()}
    put_translated(tmp_path, "bn", 1, {}, statistics_probe=probe(**larger))
    assert verdicts()["Batch statistics fluctuate more in NLP than in vision"] == "open"
    assert re.search(r"^\| means, the paper's measure +\| +0\.200 \| +0\.100 \|$", page(), re.MULTILINE)
    assert "The distance is larger in the transformer by 4 of 4 measures" in page()
    assert "about 2,000 tokens of a batch in the transformer and 131,072 positions in the ResNet20" in page()


def test_divergence_and_gradients_decide(tmp_path: Path, verdicts) -> None:
    for seed in (1, 2, 3):
        put_diverged(tmp_path, "multi30k", "pn,norm.group_scaling=false", seed)
    rows = ["norm,placement,layers,stack,layer,gradient,seeds,width"]
    rows += [f"ln,{name},2,encoder,{n},{value},3,8" for name, values in (("pre", (1, 1.1)), ("post", (1, 9)))
             for n, value in enumerate(values, 1)]  # fmt: skip
    (tmp_path / "gradients_by_depth.csv").write_text("\n".join(rows) + "\n")
    found = verdicts()
    assert found["PN without group scaling diverges (here: Multi30k)"] == "holds"
    assert found["Pre-norm has smoother gradients by depth than post-norm, in encoders at initialization"] == "holds"
    assert found["Pre-norm has smoother gradients by depth than post-norm, in decoders at initialization"] == "not run"


def test_gradients_that_are_smaller_in_all_measured_channels_leave_the_claim_open(tmp_path: Path, verdicts) -> None:
    for norm in ("bn", "pnv"):
        put_translated(tmp_path, norm, 1, {}, statistics_probe=probe(pnv_bound_smaller=1.0))
    assert verdicts()["PN-V's gradient is smaller than BN's in every channel"] == "open"


def test_the_gap_in_loss_is_the_one_of_the_figure(tmp_path: Path, page) -> None:
    curves = {"train": [], "valid": [{"update": update, "epoch": 1, "loss": loss, "train_mode_loss": 3.0}
                                     for update, loss in ((500, 9.0), (1000, 3.5), (2000, 3.25))]}  # fmt: skip
    put_translated(tmp_path, "bn", 1, {}, statistics_probe=probe(deviation_tid=0.1), curves=curves)
    assert re.search(r"^\| bn, seed 1 .*\| +0\.375 \|$", page(), re.MULTILINE)
