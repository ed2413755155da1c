"""An update of tiny models: who takes part, on which batches, and what is written; no time is tested."""

import pytest

from normplugins.bench import Options
from normplugins.bench.apart import Apart
from normplugins.bench.results import fields_of, read_rows
from normplugins.bench.step import composed, contestants, measure, run, training_batches, words_per_s
from normplugins.bench.timing import Timing
from normplugins.corpora import corpus_config, prepare
from normplugins.utils.errors import UserError
from tests.helpers.runs import CORPUS, MODEL

SMALL = ["hardware=cpu", "dataset.max_tokens=300", "corpus.subword_size=60", *MODEL]


def tiny(folder, *overrides, **options):
    return Options(
        results=folder, repeats=2, threads=1, overrides=[*SMALL, f"data_dir={folder}", *overrides], **options
    )


def test_rows_of_made_up_batches_and_of_growing_work(tmp_path, capsys):
    series = {"types": [(64, 8, 50), (64, 8, 90)]}
    run(tiny(tmp_path, norms=("bn",)), series)
    rows = read_rows(tmp_path / "benchmarks.csv")
    assert [row["provider"] for row in rows] == ["stock ln", "ln", "bn"] * 3
    cases = [fields_of(row["case"]) for row in rows]
    assert cases[0]["text"] == "made-up"
    assert cases[0]["tokens"] == "300"
    assert [(case["tokens"], case["length"], case["types"]) for case in cases[3::3]] == [
        ("64", "8", "50"),
        ("64", "8", "90"),
    ]
    for row in rows:
        assert row["baseline"] == "stock ln"
        assert float(row["words_per_s"]) > 0
        assert float(row["ratio"]) == 1 or row["provider"] != "stock ln"
    said = capsys.readouterr().out
    assert "types grow" in said
    assert "× stock" in said


def test_a_prepared_corpus_gives_the_batches_and_all_train_on_the_same_ones(tmp_path):
    options = tiny(tmp_path, *CORPUS, "corpus=demo", quick=True)
    config = composed(options, "pn")
    prepare(corpus_config(config.corpus), tmp_path, echo=lambda _: None)
    case, task, batches = training_batches(config, 5)
    assert fields_of(case)["text"] == "demo"
    assert len(batches) == 5
    assert max(batch["net_input"]["src_tokens"].numel() for batch in batches) <= 300
    assert len({batch["ntokens"] for batch in batches}) > 1
    seen = {}

    def watched(name, update):
        seen[name] = []
        return lambda batch: (seen[name].append(batch["id"].tolist()), update(batch))

    with contestants({"ln": composed(options, "ln"), "pn": config}, task) as updates:
        measure({name: watched(name, update) for name, update in updates.items()}, batches, repeats=3, warmup=2)
    assert list(seen) == ["stock ln", "ln", "pn"]
    assert all(batches_of_one == [batch["id"].tolist() for batch in batches] for batches_of_one in seen.values())


def test_words_a_second_are_each_turns_own_batch():
    batches = [{"ntokens": 100}, {"ntokens": 300}, {"ntokens": 100}]
    assert words_per_s(Timing((1.0, 2.0, 0.5)), batches) == 150


def test_what_cannot_be_measured_is_refused_in_one_line(refused, tmp_path):
    assert "--norms bn" in refused("bench", "step", "norm=bn", "--results", tmp_path)
    assert "unknown norm 'nn'" in refused("bench", "norm", "--norms", "ln,nn", "--results", tmp_path)
    assert "--repeats 0" in refused("bench", "step", "--repeats", "0", "--results", tmp_path)
    assert "layerz" in refused("bench", "step", "model.encoder_layerz=2", "--results", tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_error_in_the_process_of_stock_fairseq_is_said_here():
    with pytest.raises(UserError, match="stock fairseq: KeyError: 'x'"):
        Apart({}.__getitem__, "x")


def test_an_experiments_config_that_is_refused_raises(tmp_path):
    with pytest.raises(UserError, match="no GPU"):
        composed(Options(results=tmp_path, overrides=["hardware=gpu1"]), "ln")
