"""Beam search of tiny models with the same weights; no time is tested."""

from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks import decode
from benchmarks.decode import Case, batches_of, load
from benchmarks.measure import fields_of, read
from benchmarks.step import composed
from normplugins.corpora import corpus_config, prepare
from normplugins.export import ENGINES
from normplugins.utils.errors import UserError
from tests.helpers.runs import CORPUS, MODEL

SMALL = ["hardware=cpu", "corpus.subword_size=60", *MODEL]


@pytest.mark.slow
def test_rows_of_random_sentences(tmp_path, capsys):
    shared = ["--repeats", "1", "--threads", "1", "--results", str(tmp_path)]
    decode.main([*shared, *SMALL, f"data_dir={tmp_path}"], Case(4, 2, 2))
    rows = read(tmp_path / "benchmarks.csv")
    assert list(rows["provider"][:2]) == ["stock ln", "ln"]
    case = fields_of(rows["case"][0])
    assert (case["beam"], case["weights"], case["text"]) == ("2", "untrained", "made-up")
    assert rows.loc[0, "sentences_per_s"] == pytest.approx(4000 / rows.loc[0, "median_ms"], rel=1e-3)
    said = capsys.readouterr().out
    for engine, packages in ENGINES.items():
        if all(map(find_spec, packages)):
            assert f"{engine} float32" in list(rows["provider"])
            assert f"{engine} float32" in said
    (own,) = [line.split() for line in said.splitlines() if line.startswith("ln  ")]
    assert own[-3:] == ["100.0", "%", "100.00"]
    assert max(map(len, said[said.index("-----") : said.index("written:")].splitlines())) <= 80


@pytest.mark.slow
def test_a_trained_run(trained, layer_norm, tmp_path, at_trained, monkeypatch, capsys):
    with pytest.raises(UserError, match="only a translation run with ln"):
        decode.main(["--run", "run"])
    monkeypatch.chdir(layer_norm.folder)
    shared = ["--repeats", "1", "--threads", "1", "--results", str(tmp_path)]
    decode.main([*shared, "--run", "run"], Case(20, 4, 2))
    rows = read(tmp_path / "benchmarks.csv")
    assert fields_of(rows["case"][0])["weights"] == "trained"
    score = layer_norm.record["metrics"]["sacrebleu"]["score"]
    table = [line.split("|") for line in (tmp_path / "decoding.md").read_text().splitlines() if line.startswith("| ")]
    for name in ("stock ln", "ln"):
        (line,) = [row for row in table if row[1].strip() == name]
        assert (line[4].strip(), float(line[5])) == ("100.0 %", pytest.approx(score, abs=0.005))


def test_sentences_have_the_lengths_of_a_file(tmp_path):
    np.savez(tmp_path / "lengths.npz", de=np.arange(3, 23), en=np.arange(3, 23))
    models = load(composed("ln", [*SMALL, f"data_dir={tmp_path}"]), tmp_path / "lengths.npz")
    found = [batch["net_input"]["src_lengths"].max().item() for batch in batches_of(models, Case(8, 4))]
    assert found == [10, 18]
    assert fields_of(models.describe(Case(8, 4)))["lengths"] == "lengths.npz"


@pytest.mark.slow
def test_a_prepared_corpus_gives_the_sentences(tmp_path):
    config = composed("ln", [*SMALL, f"data_dir={tmp_path}", *CORPUS, "corpus=demo"])
    prepare(corpus_config(config.corpus), tmp_path, echo=lambda _: None)
    models = load(config)
    assert fields_of(models.describe(Case(8, 4)))["text"] == "demo"
    assert [batch["nsentences"] for batch in batches_of(models, Case(8, 4))] == [4, 4]
    with pytest.raises(UserError, match="too few"):
        batches_of(models, Case(1_000_000, 4))
