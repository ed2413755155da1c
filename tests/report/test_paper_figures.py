"""The paper's figures: the table of the probe's numbers, and each figure from tiny records."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from normplugins.report.paper_figures import TITLES, paper_figures
from normplugins.report.probe_figures import discrepancy
from normplugins.report.probe_table import (
    COLUMNS,
    FIRST,
    LAST_EPOCHS,
    VALIDATION,
    VISION,
    loss_gaps,
    loss_table,
    probe_table,
)
from normplugins.utils.errors import UserError
from tests.helpers.pictures import assert_legible, written
from tests.helpers.records import put, record
from tests.helpers.runs import REPOSITORY

UPDATES = (1, 10, 100, 1000)
LAYERS = (FIRST, "encoder.layers.0.feed_forward.norm", "encoder.final_norm", "decoder.final_norm")
OF_ALL = {"tokens": 400.0, "grad_output": 10.0, "grad_input": 5.0, "grad_mean": 0.02, "grad_product": 0.03}
MOMENTS = dict.fromkeys(("mean_distance", "variance_distance", "mean_tid", "deviation_tid"), 0.1)
OF_CELLS: dict[str, dict[str, Any]] = {
    "bn": MOMENTS,
    "pnv": {"quadratic_mean_distance": 0.2, "psi_tid": 0.05},
    "pn": {"quadratic_mean_distance": 0.3, "psi_tid": 0.07, "nu": 0.01, "nu_distance": 0.02, "group_scale_mean": 1.0},
    "pn,norm.group_scaling=false": {"psi_tid": 0.2, "nu": 0.04, "nu_distance": None},
    "pn_alg2": {"psi_tid": 0.07, "nu": 0.04},
    "ln": {},
}


def publish(results: Path, cell: str, seed: int = 1, loss: float = 4.5) -> None:
    """Write a record with the parts that the figures read."""
    layers = dict.fromkeys(LAYERS, OF_ALL | OF_CELLS[cell])
    epochs = range(UPDATES[-1], UPDATES[-1] + LAST_EPOCHS)
    valid = [{"update": update, "loss": loss, "train_mode_loss": loss - 0.25} for update in epochs]
    valid.append({"update": 10, "loss": 9.0})
    content = record("multi30k", cell, seed) | {
        "statistics_probe": [{"update": update, "layers": layers} for update in UPDATES],
        "curves": {"valid": valid},
        "config": {"model.encoder_embed_dim": 8, "model.decoder_embed_dim": 8},
    }
    put(results, content)


def test_each_number_of_the_probe_is_a_row(tmp_path: Path) -> None:
    assert list(probe_table(tmp_path).columns) == COLUMNS
    publish(tmp_path, "pn,norm.group_scaling=false")
    publish(tmp_path, "bn", 2)
    table = probe_table(tmp_path)
    assert list(table["cell"].unique()) == ["bn", "pn,norm.group_scaling=false"]
    found = table.set_index(["cell", "seed", "update", "layer", "quantity"])["value"]
    assert found["bn", 2, 100, FIRST, "mean_tid"] == 0.1
    assert math.isnan(found["pn,norm.group_scaling=false", 1, 10, LAYERS[1], "nu_distance"])
    assert found["bn", 2, 10, VALIDATION, "loss"] == 9.0
    # a token's gradient has a norm of 10 / √400, and the mean's norm is 8 channels times 0.02
    assert found["bn", 2, 1, LAYERS[3], "grad_mean_relative"] == pytest.approx(0.16 / 0.5)
    assert loss_gaps(table) == {("bn", 2): 0.25, ("pn,norm.group_scaling=false", 1): 0.25}


def test_without_records_no_figure_is_drawn(tmp_path: Path) -> None:
    assert list(paper_figures(tmp_path, probe_table(tmp_path))) == []


@pytest.mark.slow
def test_every_figure_of_the_probe_is_drawn_says_what_it_shows_and_cuts_no_text(tmp_path: Path) -> None:
    for cell in OF_CELLS:
        publish(tmp_path, cell)
    publish(tmp_path, "bn", 2)
    figures = dict(paper_figures(tmp_path, probe_table(tmp_path)))
    assert {*TITLES} - {*figures} == {"embedding"}
    for name, figure in figures.items():
        assert figure.get_suptitle().replace("\n", " ") == TITLES[name]
        assert "(seed" in written(figure)
        assert_legible(figure)
    texts = written(figures["fluctuation"])
    assert "runs: bn (seeds 1, 2); updates 10 to 1,000 ResNet20 on CIFAR-10: not run" in texts
    assert list(figures["pn-backward"].axes[0].lines[0].get_ydata()) == [0.01] * len(UPDATES)
    points = [{"update": update, "loss": 1.0, **OF_ALL, **MOMENTS, "tokens": 131072} for update in UPDATES]
    corpus = {"images": 10_000, "published": False}
    (tmp_path / VISION).write_text(json.dumps({"seed": 1, "updates": 1000, "points": points, "corpus": corpus}))
    _, beside = next(paper_figures(tmp_path, probe_table(tmp_path)))
    texts = written(beside)
    assert "10,000 images of CIFAR-10 (a subset, not from the official archive), seed 1, updates 10 to 1,000" in texts
    assert [len(axis.lines) for axis in beside.axes] == [2] * 4


def test_the_page_of_figures_shows_every_figure_under_its_title_in_order() -> None:
    text = (REPOSITORY / "docs" / "figures.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [*TITLES.values()]
    images = re.findall(r"^!\[(.*)\]\(\.\./results/figures/(.*)\.png\)$", text, re.MULTILINE)
    assert images == [(title, name) for name, title in TITLES.items()]


def test_losses_are_compared_with_those_of_ln_with_the_same_seed(tmp_path: Path) -> None:
    assert loss_table(probe_table(tmp_path)).rows == []
    for seed, loss in ((1, 4.0), (2, 5.0)):
        publish(tmp_path, "ln", seed, loss)
        publish(tmp_path, "bn", seed, loss + seed)
    publish(tmp_path, "bn", 3, 99.0)  # LN has no such seed
    rows = loss_table(probe_table(tmp_path)).rows
    assert rows == [["bn", "2", "+1.500 (+1.000 to +2.000)", "+1.250 (+0.750 to +1.750)"]]


def test_the_norms_of_pn_have_a_row_each_because_their_gap_is_0(tmp_path: Path) -> None:
    for cell in ("pn", "pn,norm.group_scaling=false", "pn_alg2", "bn"):
        publish(tmp_path, cell)
    drawn = discrepancy(probe_table(tmp_path))
    assert drawn is not None
    *_, strip = drawn[0].axes
    runs = [line for line in strip.lines if line.get_marker() == "o"]
    assert sorted(line.get_ydata()[0] for line in runs) == [0, 1, 2]
    assert [label.get_text() for label in strip.get_yticklabels()] == ["pn", "pn, no scaling", "pn_alg2"]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    publish(tmp_path, "bn")
    (tmp_path / "runs" / "multi30k" / "bn" / "seed1.json").write_text("{")
    with pytest.raises(UserError, match=r"bn/seed1\.json"):
        probe_table(tmp_path)
