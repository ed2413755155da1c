"""Beam search of tiny models with the same weights; no time is tested."""

from dataclasses import replace

import pytest
import torch

from normplugins.bench import Options
from normplugins.bench.decode import Case, load, measure, run
from normplugins.bench.results import fields_of, read_rows
from normplugins.bench.step import composed, training_batches
from normplugins.corpora import corpus_config, prepare
from normplugins.runs.compose import fairseq_config
from normplugins.training.checkpoints import save
from normplugins.training.trainer import Trainer
from normplugins.utils.errors import UserError
from tests.helpers.runs import CORPUS, MODEL


def tiny(folder, *overrides, **options):
    overrides = ["hardware=cpu", "corpus.subword_size=60", *MODEL, f"data_dir={folder}", *overrides]
    return Options(results=folder, repeats=1, threads=1, overrides=overrides, **options)


def test_rows_of_made_up_sentences_and_of_growing_work(tmp_path, capsys):
    series = {"beam": [Case(4, 2, beam, 5) for beam in (1, 2)]}
    run(tiny(tmp_path), Case(4, 2, 2, 5), series)
    rows = read_rows(tmp_path / "benchmarks.csv")
    assert [row["provider"] for row in rows] == ["stock ln", "ln"] * 4
    cases = [fields_of(row["case"]) for row in rows[::2]]
    assert [case.get("beam") for case in cases] == ["2", None, "1", "2"]
    assert [case.get("scored") for case in cases] == [None, "references", None, None]
    assert {case["length"] for case in cases} == {"5"}
    assert {(case["weights"], case["text"]) for case in cases} == {("untrained", "made-up")}
    for row in rows:
        assert float(row["sentences_per_s"]) == pytest.approx(4000 / float(row["median_ms"]), rel=1e-3)
    said = capsys.readouterr().out
    assert "both translate 4 of 4 sentences alike" in said
    assert "both score 4 of 4 sentences alike" in said
    assert "beam grow" in said


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with a tiny prepared corpus, and options of a model for it."""
    folder = tmp_path_factory.mktemp("corpus")
    options = tiny(folder, *CORPUS, "corpus=demo")
    prepare(corpus_config(composed(options, "ln").corpus), folder, echo=lambda _: None)
    return options


def test_the_test_set_of_a_prepared_corpus_is_translated_where_there_is_one(corpus):
    models = load(composed(corpus, "ln"), None)
    case = Case(8, 4, 2)
    assert fields_of(models.describe(case))["text"] == "demo"
    found, same = measure(models, case, 1)
    assert same == 8
    assert list(found) == ["stock ln", "ln"]
    assert measure(models, replace(case, beam=0), 1)[1] == 8
    with pytest.raises(UserError, match="too few"):
        measure(models, Case(1_000_000, 4), 1)


def test_both_have_a_checkpoints_weights_which_must_be_those_of_layernorm(corpus, tmp_path):
    configs = {name: composed(corpus, name) for name in ("ln", "pn")}
    _, task, batches = training_batches(configs["ln"], 1)
    paths = {name: tmp_path / f"{name}.pt" for name in configs}
    trainers = {}
    for name, path in paths.items():
        settings = fairseq_config(configs[name])
        model, criterion = task.build_model(settings.model), task.build_criterion(settings.criterion)
        trainers[name] = Trainer(settings, task, model, criterion)
        trainers[name].train_step(batches)
        save(trainers[name], path, {"train_iterator": {"epoch": 1}})
    models = load(configs["ln"], paths["ln"])
    assert models.weights == str(paths["ln"])
    for model in models.both.values():
        weight = model.encoder.embed_tokens.weight
        assert torch.equal(weight, trainers["ln"].get_model().encoder.embed_tokens.weight)
    assert measure(models, Case(8, 4, 2), 1)[1] == 8
    with pytest.raises(UserError, match="LayerNorm alone"):
        load(configs["ln"], paths["pn"])
    with pytest.raises(UserError, match="is not there"):
        load(configs["ln"], tmp_path / "nothing.pt")
