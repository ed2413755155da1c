"""``normplugins compare`` on small records written for it: scores, verdicts, refusals, sentences."""

import gzip
import json

import numpy as np
import pytest

from normplugins.utils.files import sha256
from normplugins.utils.json_file import write_json
from tests.helpers.records import REFERENCES, put_translated

SEEDS = (1, 2, 3)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Three seeds of four cells in ``results``: ``bn`` is worst, ``pn`` is ``ln`` again, ``rms`` varies most."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    reference = tmp_path / "data" / "small" / "tokenized" / "reference.text.en"
    reference.parent.mkdir(parents=True)
    reference.write_text("\n".join(REFERENCES) + "\n", encoding="utf-8")
    corpus = {"sha256": {"tokenized/reference.text.en": sha256(reference)}}
    for seed in SEEDS:
        for cell, damaged in (("ln", {1: seed}), ("pn", {1: seed}), ("bn", {3: 60 - seed}), ("rms", {2: 15 * seed})):
            put_translated(tmp_path / "results", cell, seed, damaged, experiment="small", corpus=corpus)
    return tmp_path / "results"


def change(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")


def test_three_seeds(results, accepted) -> None:
    text = accepted("compare", "small/ln", "small/bn", "small/pn", "--sentences", "1")
    assert "verdict: worse" in text
    assert "3 seeds" in text
    assert "hierarchical bootstrap" in text
    assert "reference:" in text  # found by its hash under data/
    assert "verdict: equivalent" in text  # pn translates as ln does
    assert "one seed" not in text


def test_another_training_text_is_named(results, accepted) -> None:
    assert "different texts" not in accepted("compare", "small/ln", "small/pn")
    path = results / "runs/small/pn/seed2.json"
    corpus = json.loads(path.read_text(encoding="utf-8"))["corpus"]
    change(path, corpus=corpus | {"counts": {"train": {"pairs": 7}}})
    assert "the runs were trained on different texts" in " ".join(accepted("compare", "small/ln", "small/pn").split())


@pytest.mark.slow
def test_one_common_seed_gives_no_verdict(results, accepted) -> None:
    for seed in (2, 3):
        (results / f"runs/small/bn/seed{seed}.json").unlink()
    text = accepted("compare", "small/ln", "small/bn")
    assert "one seed: no verdict" in text


def test_two_seeds_have_no_standard_deviation_and_do_not_say_how_many_would_decide(results, accepted) -> None:
    for cell in ("ln", "rms"):
        (results / f"runs/small/{cell}/seed3.json").unlink()
    text = accepted("compare", "small/ln", "small/rms")
    assert "±" not in text
    assert "verdict: undecided. Run both with at least one more seed" in text


def test_a_side_that_diverged_more_often_is_not_called_better(results, accepted) -> None:
    path = results / "runs/small/ln/seed3.json"
    path.rename(path.with_name("seed3.diverged.json"))
    text = accepted("compare", "small/bn", "small/ln")
    assert "1 diverged" in text
    assert text.partition("verdict: ")[2].startswith("undecided;")


def test_the_files_of_one_run_and_a_folder_of_runs(results, accepted) -> None:
    text = accepted("compare", results / "runs/small/ln/seed1.json", results / "runs/small/bn")
    assert "one seed: no verdict" in text


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"corpus": {"sha256": {"tokenized/reference.text.en": "0"}}}, "reference.text.en is 0 there and "),
        ({"scores": {"averaged": {"test": {"ppl": {"score": 1}}}}}, "lacks a field"),
        ({"scores": {"best": {}}}, "no score of the checkpoint 'averaged'"),
        ({"translations": {"averaged": {"file": "seed1.averaged.tsv.gz", "sha256": "0"}}}, "its sha256 differs"),
        ({"translations": {"averaged": {"file": "none.gz", "sha256": "0"}}}, "is missing"),
    ],
)
def test_records_that_cannot_be_compared(results, refused, entries, said) -> None:
    change(results / "runs/small/bn/seed1.json", **entries)
    assert said in refused("compare", "small/ln", "small/bn")


def test_another_signature_is_refused(results, refused) -> None:
    path = results / "runs/small/bn/seed1.json"
    scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
    scores["averaged"]["test"]["bleu"]["signature"] = "tok:13a"
    change(path, scores=scores)
    assert "signature is tok:13a there and nrefs:1" in refused("compare", "small/ln", "small/bn")


def test_translations_that_do_not_give_the_score(results, refused) -> None:
    kept = results / "runs/small/bn/seed1.averaged.tsv.gz"
    kept.write_bytes(gzip.compress(b"".join(gzip.decompress(kept.read_bytes()).splitlines(keepends=True)[:-3])))
    change(results / "runs/small/bn/seed1.json", translations={"averaged": {"file": kept.name, "sha256": sha256(kept)}})
    assert "does not give the score" in refused("compare", "small/ln", "small/bn")


def test_names_that_are_no_runs(results, refused) -> None:
    assert "small/nothing is not a run" in refused("compare", "small/ln", "small/nothing")
    assert "two runs" in refused("compare", "small/ln")
    (results / "runs/small/bn/seed1.json").unlink()
    assert "no seed in common" in refused("compare", results / "runs/small/ln/seed1.json", "small/bn")


def test_language_models(tmp_path, accepted, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for cell, offset in (("ln", 0.0), ("bn", 0.2)):
        for seed in SEEDS:
            folder = tmp_path / "runs" / cell / f"seed{seed}"
            folder.mkdir(parents=True)
            rng = np.random.default_rng(seed)
            logprobs = rng.normal(-3 - offset, 1, 500).astype(np.float32)
            np.save(folder / "test.logprobs.npy", logprobs)
            nats = -float(logprobs.mean())
            ppl = {"score": float(np.exp(nats)), "nats": nats, "tokens": 500, "signature": "level:word"}
            record = {
                "format": 2,
                **{"experiment": "ptb", "variant": cell, "norm": cell, "seed": seed, "scored_by": "best"},
                "scores": {"best": {"test": {"ppl": ppl}}},
                "corpus": {"sha256": {"text/test": "1"}},
                "config": {"task.tokens_per_sample": 10, "evaluate.segment": None},
            }
            write_json(folder / "record.json", record)
    text = accepted("compare", "runs/ln", "runs/bn")
    assert "difference: +0.2000 nats per word (less is better)" in text
    assert "verdict: worse" in text
    assert "approximate randomization p = " in text
