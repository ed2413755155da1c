"""An update of tiny models: who takes part, on which batches, and what is written; no time is tested."""

import numpy as np
import pytest

from benchmarks import step
from benchmarks.measure import fields_of, read
from benchmarks.step import composed, measure, training_batches, update_functions
from benchmarks.stock import stock_function
from normplugins.corpora import corpus_config, prepare
from normplugins.utils.errors import UserError
from tests.helpers.runs import CORPUS, MODEL

SMALL = ["hardware=cpu", "dataset.max_tokens=300", "corpus.subword_size=60", *MODEL]


@pytest.mark.slow
def test_rows_of_random_batches(tmp_path):
    overrides = [*SMALL, f"data_dir={tmp_path}"]
    step.main(["--norms", "bn", "--repeats", "2", "--threads", "1", "--results", str(tmp_path), *overrides])
    rows = read(tmp_path / "benchmarks.csv")
    assert list(rows["provider"]) == ["stock ln", "ln", "bn"]
    case = fields_of(rows.loc[0, "case"])
    assert (case["text"], case["tokens"]) == ("made-up", "300")
    assert (rows["words_per_s"] > 0).all()
    assert rows.loc[0, "ratio"] == 1


@pytest.mark.slow
def test_a_prepared_corpus_gives_the_batches_and_all_train_on_the_same_ones(tmp_path):
    overrides = [*SMALL, f"data_dir={tmp_path}", *CORPUS, "corpus=demo"]
    config = composed("pn", overrides)
    prepare(corpus_config(config.corpus), tmp_path, echo=lambda _: None)
    case, task, batches = training_batches(config, 4)
    assert fields_of(case)["text"] == "demo"
    assert len({batch["ntokens"] for batch in batches}) > 1
    seen = {}

    def watched(name, update):
        seen[name] = []
        return lambda batch: (seen[name].append(batch["id"].tolist()), update(batch))

    with update_functions({"ln": composed("ln", overrides), "pn": config}, task) as updates:
        measure({name: watched(name, update) for name, update in updates.items()}, batches, repeats=2)
    assert list(seen) == ["stock ln", "ln", "pn"]
    assert all(ids == [batch["id"].tolist() for batch in batches] for ids in seen.values())


def test_batches_have_the_lengths_of_a_file(tmp_path):
    rng = np.random.default_rng(0)
    lengths = {language: rng.integers(3, 40, 200).astype(np.uint16) for language in ("de", "en")}
    np.savez(tmp_path / "lengths.npz", **lengths)
    case, _, batches = training_batches(
        composed("ln", [*SMALL, f"data_dir={tmp_path}"]), 5, lengths=tmp_path / "lengths.npz"
    )
    assert (fields_of(case)["text"], fields_of(case)["lengths"]) == ("made-up", "lengths.npz")
    for batch in batches:
        sources, targets = batch["net_input"]["src_lengths"], batch["target"].ne(1).sum(1)
        assert sources.tolist() == lengths["de"][batch["id"]].tolist()
        assert targets.tolist() == lengths["en"][batch["id"]].tolist()
        assert len(sources) * max(sources.max(), targets.max()) <= 300
    np.savez(tmp_path / "german.npz", de=lengths["de"])
    with pytest.raises(UserError, match=r"german\.npz: no \.npz file with an array for each language"):
        training_batches(composed("ln", SMALL), 1, lengths=tmp_path / "german.npz")


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(UserError, match="--norms bn"):
        composed("ln", ["norm=bn"])
    with pytest.raises(UserError, match="layerz"):
        composed("ln", ["model.encoder_layerz=2"])
    with pytest.raises(UserError, match="no GPU"):
        composed("ln", ["hardware=gpu8"])


@pytest.mark.slow
def test_an_error_in_the_process_of_stock_fairseq_is_raised_here():
    with pytest.raises(UserError, match="stock fairseq: KeyError: 'x'"), stock_function(True, {}.__getitem__, "x"):
        pass
