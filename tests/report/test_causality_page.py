"""The table of results/causality.md holds what the records say."""

import json
from pathlib import Path

import pytest

from normplugins.report.causality_page import causality_table, draw, read_causality, write_page
from normplugins.utils.errors import UserError
from tests.helpers.pictures import assert_legible


def mode(mean=0.0, identical=None):
    return {"mean": mean, "max": 3 * mean, "identical": mean == 0 if identical is None else identical, "tokens": 9}


def record(norm="ln", causal=True, seed=1, warming=False, model=(), **measured):
    modes = {"evaluation": mode(), "training": mode(), "training_in_warmup": None}
    return {
        "format": 1,
        "experiment": "ptb",
        "variant": f"{norm},budget=cpu" + ",model.causal=true" * causal,
        "seed": seed,
        "norm": norm,
        "model": {"name": "tensor_transformer_lm", "causal": causal} | dict(model),
        "run": {"updates": 600, "budget": "cpu"},
        "corpus": {"name": "ptb", "split": "test", "tokens": 82430, "note": ""},
        "warming": warming,
        "measured": modes | measured,
        "hardware": {"device": "CPU", "cpu": "2 x Z80", "threads": 2, "memory_gb": 4},
        "versions": {"python": "3.11", "torch": "2.13", "fairseq": "0.12.2"},
    }


@pytest.fixture
def rows(tmp_path):
    """The rows of the table over these records, each a dict by column; their keys are mode and norm."""

    def read(*records):
        for one in records:
            path = tmp_path / "causality" / one["experiment"] / one["variant"] / f"seed{one['seed']}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(one), encoding="utf-8")
        table = causality_table(read_causality(tmp_path))
        heads = [column.name.replace("\n", " ") for column in table.columns]
        return {(row[0], row[3]): dict(zip(heads, row, strict=True)) for row in table.rows}

    return read


def test_only_what_is_the_same_to_the_bit_is_called_0(rows):
    found = rows(record("ln"), record("bn", evaluation=mode(0.0, identical=False)), record("pn", evaluation=mode(0.5)))
    means = [found["evaluation", norm]["mean |Δ log p|, nats"] for norm in ("ln", "bn", "pn")]
    assert means == ["0 (bitwise)", "0 (rounded)", "0.5"]
    assert found["evaluation", "pn"]["max"] == "1.5"


@pytest.mark.parametrize(
    ("norm", "causal", "model", "name"),
    [
        ("ln", False, {}, "reading=code: sees the future"),
        ("instance", False, {"masked": True}, "reading=masked, but its norm sees the future"),
        ("ln", True, {"normalize_before": True}, "reading=paper"),
    ],
)
def test_the_model_is_named_by_what_it_sees(rows, norm, causal, model, name):
    assert rows(record(norm, causal, model=model))["evaluation", norm]["model"] == name


def test_training_mode_has_its_own_rows(rows):
    leak = mode(0.01)
    found = rows(record("ln"), record("pn", training_in_warmup=leak), record("bn", warming=True, training=leak))
    assert found["training", "ln"]["max"] == "0 (bitwise)"
    assert found["training, in PN's warmup", "pn"]["max"] == "0.03"
    assert ("training (norm still in warmup)", "bn") in found


def test_seeds_share_a_row(rows):
    row = rows(record(seed=1, evaluation=mode(0.2)), record(seed=2, evaluation=mode(0.4)))["evaluation", "ln"]
    assert (row["seeds"], row["mean |Δ log p|, nats"], row["max"]) == ("2", "0.3", "1.2")


def test_without_a_record_there_is_no_page(tmp_path):
    assert write_page(tmp_path) == []


@pytest.mark.slow
def test_the_same_records_give_the_same_files(rows, tmp_path):
    rows(record(), record("bn", causal=False, evaluation=mode(2.0)))
    paths = write_page(tmp_path)
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_page(tmp_path)] == before
    assert {path.relative_to(tmp_path) for path in paths} == {
        Path("causality.md"),
        Path("figures/causality.png"),
        Path("figures/causality.svg"),
    }


@pytest.mark.parametrize("broken", ["{", "[]", json.dumps(record() | {"format": 2}), json.dumps({"format": 1})])
def test_a_broken_record_is_named(tmp_path, broken):
    path = tmp_path / "causality" / "ptb" / "ln" / "seed1.json"
    path.parent.mkdir(parents=True)
    path.write_text(broken, encoding="utf-8")
    with pytest.raises(UserError, match=r"seed1\.json"):
        read_causality(tmp_path)


def test_no_text_of_the_figure_is_cut_or_covers_another(rows, tmp_path):
    wide = {"name": "norm_transformer_lm", "normalize_before": True}
    rows(record("instance", model=wide), record("bn_released", causal=False, evaluation=mode(2.0)), record("pn"))
    figure = draw(read_causality(tmp_path))
    assert_legible(figure)
