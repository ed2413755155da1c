"""The file of measurements only grows: old rows stay, each new one is whole."""

import csv

import pytest

from normplugins.bench.results import COLUMNS, add_rows, case_of, fields_of, here, read_rows, times
from normplugins.bench.timing import Timing
from normplugins.utils.errors import UserError

OLD = 'benchmark,provider,case,median_ms\ndecoding,ln,"a case, quoted",12.5\n'


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / "benchmarks.csv"


def test_rows_are_added_under_a_header_and_never_change(path):
    row = {"benchmark": "norm", "provider": "pn", "case": case_of(tokens=4096, channels=512), "direction": "forward"}
    add_rows(path, [row | times(Timing((0.001, 0.002, 0.003))) | here(repeats=3, threads=1)])
    before = path.read_bytes()
    add_rows(path, [row | {"provider": "ln", "gb_per_s": 12.5}])
    assert path.read_bytes().startswith(before)
    first, second = read_rows(path)
    assert (first["provider"], first["median_ms"], first["p20_ms"], first["p80_ms"]) == ("pn", "2.0", "1.4", "2.6")
    assert first["repeats"] == "3"
    assert all(first[column] for column in ("hardware", "torch", "fairseq", "commit", "date", "threads"))
    assert (second["gb_per_s"], second["median_ms"]) == ("12.5", "")
    with path.open(newline="") as file:
        assert all(len(line) == len(COLUMNS) for line in csv.reader(file))


def test_a_file_with_fewer_columns_keeps_its_rows_and_gets_the_new_columns(path):
    path.parent.mkdir()
    path.write_text(OLD)
    add_rows(path, [{"benchmark": "norm", "threads": 2}])
    old, new = read_rows(path)
    assert {name: old[name] for name in ("benchmark", "provider", "case", "median_ms")} == {
        "benchmark": "decoding",
        "provider": "ln",
        "case": "a case, quoted",
        "median_ms": "12.5",
    }
    assert not any(old[name] for name in COLUMNS[4:])
    assert new["threads"] == "2"


def test_it_reads_a_file_with_fewer_columns_as_it_is(path):
    assert read_rows(path) == []
    path.parent.mkdir()
    path.write_text(OLD)
    (row,) = read_rows(path)
    assert list(row) == list(COLUMNS)
    assert path.read_text() == OLD


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "provider,benchmark\nx,y\n"])
def test_a_file_of_something_else_is_refused_and_stays(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match="columns"):
        add_rows(path, [{"benchmark": "norm"}])
    assert path.read_text() == text


def test_an_unknown_column_is_refused_before_anything_is_written(path):
    with pytest.raises(ValueError, match="speed"):
        add_rows(path, [{"benchmark": "norm", "speed": 1}])
    assert not path.exists()


def test_a_case_can_be_read_back():
    assert fields_of(case_of(tokens=4096, channels=512)) == {"tokens": "4096", "channels": "512"}
    assert fields_of("ptb causal L=32 B=120") == {}
