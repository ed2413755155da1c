"""Beam search of tiny models with the same weights; no time is tested."""

from dataclasses import replace

import pytest
import torch

from benchmarks import decode
from benchmarks.decode import Case, load, measure
from benchmarks.measure import fields_of, read
from benchmarks.step import composed, training_batches
from normplugins.corpora import corpus_config, prepare
from normplugins.runs.compose import fairseq_config
from normplugins.training.checkpoints import save
from normplugins.training.trainer import Trainer
from normplugins.utils.errors import UserError
from tests.helpers.runs import CORPUS, MODEL

SMALL = ["hardware=cpu", "corpus.subword_size=60", *MODEL]


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    """Overrides of a tiny model for a tiny prepared corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    given = [*SMALL, f"data_dir={folder}", *CORPUS, "corpus=demo"]
    prepare(corpus_config(composed("ln", given).corpus), folder, echo=lambda _: None)
    return given


@pytest.mark.slow
def test_rows_of_random_sentences(tmp_path, capsys):
    shared = ["--repeats", "1", "--threads", "1", "--results", str(tmp_path)]
    decode.main([*shared, *SMALL, f"data_dir={tmp_path}"], Case(4, 2, 2))
    rows = read(tmp_path / "benchmarks.csv")
    assert list(rows["provider"]) == ["stock ln", "ln"] * 2
    cases = [fields_of(case) for case in rows["case"][::2]]
    assert [(case.get("beam"), case.get("scored")) for case in cases] == [("2", None), (None, "references")]
    assert {(case["weights"], case["text"]) for case in cases} == {("untrained", "made-up")}
    assert rows.loc[0, "sentences_per_s"] == pytest.approx(4000 / rows.loc[0, "median_ms"], rel=1e-3)
    said = capsys.readouterr().out
    assert "both translate 4 of 4 sentences alike" in said
    assert "both score 4 of 4 sentences alike" in said


@pytest.mark.slow
def test_both_have_a_checkpoints_weights_which_must_be_those_of_layernorm(overrides, tmp_path):
    configs = {name: composed(name, overrides) for name in ("ln", "pn")}
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
    for model in models.both.values():
        weight = model.encoder.embed_tokens.weight
        assert torch.equal(weight, trainers["ln"].get_model().encoder.embed_tokens.weight)
    case = Case(8, 4, 2)
    assert fields_of(models.describe(case))["text"] == "demo"
    assert measure(models, case, 1)[1] == 8
    assert measure(models, replace(case, beam=0), 1)[1] == 8
    with pytest.raises(UserError, match="too few"):
        measure(models, Case(1_000_000, 4), 1)
    with pytest.raises(UserError, match="LayerNorm alone"):
        load(configs["ln"], paths["pn"])
    with pytest.raises(UserError, match="is missing"):
        load(configs["ln"], tmp_path / "nothing.pt")
