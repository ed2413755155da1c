"""Stages of preparing tiny corpora; no time is tested."""

import gzip

from normplugins.bench import Options
from normplugins.bench.prepare import run
from normplugins.bench.results import fields_of, read_rows
from normplugins.corpora import multi30k

STAGES = ["tokenize", "learn", "split", "binarize", "all"]
SMALL = ["corpus.subword_size=60", "corpus.valid_size=5", "corpus.test_size=5"]


def test_a_row_for_each_stage_and_number_of_processes(tmp_path, capsys):
    run(Options(results=tmp_path, repeats=1, threads=2, overrides=[*SMALL, f"data_dir={tmp_path}"]), sizes=(50, 100))
    rows = read_rows(tmp_path / "benchmarks.csv")
    assert [row["direction"] for row in rows] == STAGES * 4
    assert [row["provider"] for row in rows[::5]] == ["1 process", "2 processes"] * 2
    assert [fields_of(row["case"])["pairs"] for row in rows[::10]] == ["60", "110"]
    for group in (rows[start : start + 5] for start in range(0, 20, 5)):
        parts = [float(row["median_ms"]) for row in group]
        assert abs(sum(parts[:4]) - parts[4]) < 2e-3 * parts[4]
    assert "pairs grow" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["benchmarks.csv"]


def test_multi30k_is_measured_where_its_files_are_and_not_fetched_otherwise(tmp_path):
    raw = tmp_path / "multi30k" / "raw"
    raw.mkdir(parents=True)
    parts = ("train", "val", *multi30k.TEST_PARTS.values())
    for part in parts:
        for language in ("de", "en"):
            (raw / f"{part}.{language}.gz").write_bytes(gzip.compress(b"Ein Hund bellt laut .\n" * 20))
    overrides = [f"data_dir={tmp_path}", "corpus.verify=false", "corpus.subword_size=8"]
    before = {path.name for path in raw.iterdir()}
    run(Options(results=tmp_path, repeats=1, threads=1, quick=True, overrides=overrides), sizes=(50,))
    rows = read_rows(tmp_path / "benchmarks.csv")
    assert [fields_of(row["case"])["corpus"] for row in rows] == ["multi30k"] * 5 + ["demo"] * 5
    assert fields_of(rows[0]["case"])["pairs"] == str(20 * len(parts))
    assert {path.name for path in raw.iterdir()} == before
