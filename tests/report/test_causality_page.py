"""The page says what the records hold, whatever that is."""

import json
import re

import pytest

from normplugins.report.causality_page import page, write_page
from normplugins.report.causality_records import read_cells
from normplugins.utils.errors import UserError


def change(mean=0.0, identical=None):
    return {"mean": mean, "max": 3 * mean, "identical": mean == 0 if identical is None else identical, "tokens": 9}


def mode(mean=0.0, ppl=100.0, replaced=None, other=None, identical=None):
    return {
        **change(mean, identical),
        "ppl_true": ppl,
        "ppl_replaced": replaced or ppl,
        "by_distance": [{"distance": 1, **change(mean)}, {"distance": 2, **change(mean / 2)}],
        "other_segment": other,
        "repeatable": True,
    }


def record(norm="ln", causal=True, masked=None, seed=1, warmup=None, warming=False, places=None, **measured):
    modes = {"evaluation": mode(), "training": mode(other=change()), "training_in_warmup": None}
    return {
        "format": 1,
        "experiment": "ptb",
        "variant": f"{norm},budget=cpu" + ",model.causal=true" * causal,
        "seed": seed,
        "norm": norm,
        "model": {"name": "tensor_transformer_lm", "causal": causal} | ({} if masked is None else {"masked": masked}),
        "run": {
            "checkpoint": "c.pt",
            "updates": 600,
            "git_commit": "a1",
            "ppl": 99.0,
            "budget": "cpu",
            "batch": [120, 32],
        },
        "corpus": {"name": "ptb", "split": "test", "tokens": 82430, "note": ""},
        "probe": {"draws": 2, "segments": 32, "trials": 32, "seed": 1, "batch": [120, 32]},
        "warmup": warmup,
        "warming": warming,
        "by_place": places,
        "measured": modes | measured,
        "seconds": 1.0,
        "git_commit": "b2",
        "hardware": {"device": "CPU", "cpu": "2 x Z80", "threads": 2, "memory_gb": 4},
        "versions": {"python": "3.11", "torch": "2.13", "fairseq": "0.12.2"},
    }


@pytest.fixture
def told(tmp_path):
    """The page over these records, its line breaks taken out."""

    def write(*records):
        for one in records:
            path = tmp_path / "causality" / one["experiment"] / one["variant"] / f"seed{one['seed']}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(one), encoding="utf-8")
        return re.sub(r"\n +", " ", page(read_cells(tmp_path)))

    return write


def test_a_causal_model_that_leaks_is_named(told):
    text = told(record("ln"), record("bn", evaluation=mode(0.5)))
    assert "1 of 2 models that should be causal are not, to the bit: bn (reading=masked" in text
    assert "saw any of the future" not in text


def test_nothing_is_called_zero_that_is_not_so_to_the_bit(told):
    text = told(record("ln", evaluation=mode(0.0, identical=False)))
    assert "| 0 (rounded) |" in re.sub(" +", " ", text)
    assert "models that should be causal are not" in text


def test_an_unmasked_model_that_saw_nothing_is_not_accused(told):
    text = told(record("ln", causal=False))
    assert "The unmasked model saw nothing of the future" in text
    assert "reads the future" not in text


def test_a_model_that_is_not_causal_by_its_norm_is_neither_causal_nor_unmasked(told):
    seen = mode(4.0, ppl=2.5, replaced=1234.5, other=change())
    by_norm = record("instance", causal=False, masked=True, evaluation=seen, training=seen)
    text = told(by_norm, record("ln", masked=True))
    assert "**Not causal, by its norm**: with `instance`, a model whose attention is masked sees the future" in text
    assert "perplexity 2.5 with the true future, 1,234 with a replaced one. In training, it does not reach" in text
    assert "the causal model saw nothing of the future" in text
    assert "should be causal" not in text
    assert "unmasked model reads" not in text
    assert "lets something through" not in text
    assert re.search(r"\| reading=masked, but its norm sees the future +\| instance ", text)


def test_the_unmasked_models_two_perplexities(told):
    seen = mode(4.0, ppl=2.5, replaced=1234.5)
    text = told(record("ln", causal=False, evaluation=seen, places={"last": 210.0, "others": 2.4, "segments": 9}))
    assert "perplexity 2.5 with the true future, 1,234 once" in text
    assert "perplexity 2.4 where words follow in the segment, and 210 at a segment's last position" in text


def test_norms_in_training(told):
    leak = mode(0.01, replaced=101.0, other=change(0.004))
    text = told(
        record("ln"),
        record("bn", training=leak),
        record("pn", warmup={"updates": 600, "of": 60}, training_in_warmup=leak),
        record("pn_alg2"),
    )
    assert "nothing at all leaks with `ln`, `pn` after its warmup and `pn_alg2`: 0 to the bit" in text
    for who in ("`bn`", "`pn` during its warmup"):
        assert (
            f"**{who}** lets something through: on average 0.01 nats, at most 0.03 nats; the perplexity moves" in text
        )
    assert "by up to 1.0 %. It reaches other segments too: 0.004 nats on average" in text


def test_pn_whose_warmup_had_not_ended(told):
    leak = mode(0.01, other=change(0.004))
    text = told(record("pn", warmup={"updates": 30, "of": 60}, warming=True, training=leak, training_in_warmup=leak))
    assert "after its warmup" not in text
    assert "as trained, in warmup" in text


def test_a_norm_that_leaks_in_one_run_is_not_called_silent(told):
    other = record("bn", training=mode(0.01, other=change(0.004)))
    text = told(record("bn"), other | {"variant": "bn,architecture=transformer,budget=cpu"})
    assert "nothing at all leaks" not in text


def test_seeds_share_a_row(told):
    text = re.sub(" +", " ", told(record(seed=1, evaluation=mode(0.2)), record(seed=2, evaluation=mode(0.4))))
    assert "| reading=masked | ln | 1, 2 | 0.3 | 1.2 |" in text


def test_a_device_that_does_not_repeat_is_told(told):
    assert "*same* input twice" in told(record(training=mode() | {"repeatable": False}))
    assert "*same* input twice" not in told(record(training=mode()))


def test_no_record_no_page(tmp_path):
    assert write_page(tmp_path) == []


def test_the_same_records_give_the_same_files(told, tmp_path):
    told(record(), record("bn", causal=False, evaluation=mode(2.0, replaced=9e9)))
    before = [path.read_bytes() for path in write_page(tmp_path)]
    assert [path.read_bytes() for path in write_page(tmp_path)] == before


def test_the_page_claims_nothing_of_the_papers_own_model(told):
    text = told(record("ln", causal=False, evaluation=mode(4.0, ppl=2.5, replaced=1234.5))).replace("\n", " ")
    assert "whether that is so of the paper's own numbers is not known" in text


def test_a_pre_norm_masked_model_is_the_papers_reading(told):
    content = record("ln")
    content["model"]["normalize_before"] = True
    assert re.search(r"\| reading=paper +\| ln ", told(content))


@pytest.mark.parametrize("broken", ["{", "[]", json.dumps(record() | {"format": 2}), json.dumps({"format": 1})])
def test_a_broken_record_is_named(tmp_path, broken):
    path = tmp_path / "causality" / "ptb" / "ln" / "seed1.json"
    path.parent.mkdir(parents=True)
    path.write_text(broken, encoding="utf-8")
    with pytest.raises(UserError, match=r"seed1\.json"):
        read_cells(tmp_path)
