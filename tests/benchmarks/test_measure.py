"""Times in turns, the file of measurements that only grows, and the page made from it."""

import pandas as pd
import pytest

from benchmarks import decode, norm, page, prepare, step
from benchmarks.measure import (
    COLUMNS,
    append,
    case_of,
    fields_of,
    machine,
    parse,
    parser_with,
    read,
    rows,
    take_turns,
)
from normplugins.utils.errors import UserError


def measured(tokens: int, released: float, date: str = "2026-01-01") -> pd.DataFrame:
    found = {("torch LayerNorm", "both"): (0.001, 0.002), ("pn", "both"): (0.003, 0.004)}
    found["released PN", "both"] = (released, 2 * released)
    case = case_of(tokens=tokens, channels=512, dtype="float32", padding="none")
    where = machine(1, cpu=True) | {"date": date}
    return rows("norm", case, found, "torch LayerNorm", where)


def test_every_call_has_as_many_turns():
    called = {"one": 0, "two": 0}

    def call(name):
        called[name] += 1

    found = take_turns({name: lambda name=name: call(name) for name in called}, repeats=3)
    assert {name: len(times) for name, times in found.items()} == {"one": 3, "two": 3}
    assert min(called.values()) >= 6, "each turn warms up first"


def test_a_ratio_is_the_median_over_the_turns():
    found = {("one", ""): (2.0, 30.0, 4.0), ("two", ""): (1.0, 10.0, 4.0)}
    assert list(rows("norm", "", found, "two", {})["ratio"]) == [2.0, 1.0]


def test_rows_are_appended_and_never_change(tmp_path):
    path = tmp_path / "results" / "benchmarks.csv"
    append(path, measured(64, 0.02))
    before = path.read_bytes()
    append(path, measured(128, 0.04))
    assert path.read_bytes().startswith(before)
    table = read(path)
    assert list(table.columns) == COLUMNS
    assert list(table["ratio"]) == [1.0, 2.5, 20.0, 1.0, 2.5, 40.0]
    assert list(table.loc[1, ["median_ms", "p20_ms", "p80_ms", "repeats"]]) == [3.5, 3.2, 3.8, 2]
    assert table["commit"].notna().all()


def test_a_file_of_something_else_is_refused_and_stays(tmp_path):
    path = tmp_path / "benchmarks.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="columns"):
        append(path, measured(64, 0.02))
    with pytest.raises(UserError, match="columns"), page.regenerated(tmp_path):
        pytest.fail("it is refused before anything is measured")
    assert path.read_text() == "a,b\n1,2\n"


def test_a_case_can_be_read_back():
    assert fields_of(case_of(tokens=4096, channels=512)) == {"tokens": "4096", "channels": "512"}
    assert fields_of("ptb causal L=32 B=120") == {}


def test_the_page_shows_the_newest_row_of_each_case_and_how_the_times_grow(tmp_path):
    for tokens in (64, 128, 256):
        append(tmp_path / "benchmarks.csv", measured(tokens, 0.001 * tokens))
    append(tmp_path / "benchmarks.csv", measured(64, 0.128, "2026-01-02"))
    text = page.write(tmp_path).read_text()
    assert (tmp_path / "figures" / "speed.png").read_bytes().startswith(b"\x89PNG")
    (line,) = [line for line in text.splitlines() if line.startswith("| released PN")]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == ["192.0", "192.0", "384.0", "0.50"]
    assert "2026-01-01, 2026-01-02" in text


@pytest.mark.parametrize(
    ("given", "said"), [(["--norms", "ln,nn"], "unknown norm 'nn'"), (["--repeats", "0"], "--repeats 0")]
)
def test_what_cannot_be_measured_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        parse(parser_with("", "--norms", "--repeats"), given)


@pytest.mark.parametrize(
    ("benchmark", "given"),
    [(norm, ["hardware=cpu"]), (step, ["--quick"]), (decode, ["--norms", "pn"]), (prepare, ["--lengths", "a.npz"])],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_an_option_that_a_benchmark_does_not_use_is_refused(benchmark, given, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(given)
    assert f"unrecognized arguments: {given[0]}" in capsys.readouterr().err
