"""Stages of preparing tiny corpora; no time is tested."""

from benchmarks import prepare
from benchmarks.measure import fields_of, read

STAGES = ["tokenize", "learn", "split", "binarize", "all"]
SMALL = ["corpus.train_size=50", "corpus.subword_size=60", "corpus.valid_size=5", "corpus.test_size=5"]


def test_a_row_for_each_stage_and_number_of_processes(tmp_path):
    shared = ["--quick", "--repeats", "1", "--threads", "2", "--results", str(tmp_path)]
    prepare.main([*shared, *SMALL, f"data_dir={tmp_path / 'data'}"])
    rows = read(tmp_path / "benchmarks.csv")
    assert list(rows["direction"]) == STAGES * 2
    assert list(rows["provider"][::5]) == ["1 process", "2 processes"]
    assert fields_of(rows["case"].iloc[0])["pairs"] == "60"
    for start in (0, 5):
        parts = list(rows["median_ms"][start : start + 5])
        assert abs(sum(parts[:4]) - parts[4]) < 2e-3 * parts[4]
