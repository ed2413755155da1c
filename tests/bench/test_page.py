"""Page, tables and figure from rows alone."""

import pytest

from normplugins.bench.page import write
from normplugins.bench.results import add_rows, case_of
from normplugins.bench.tables import case_table, growth_table, series

MACHINE = {
    "hardware": "a machine",
    "repeats": 3,
    "torch": "2.13.0",
    "commit": "0123456789abcdef",
    "date": "2026-01-02T03:04:05+00:00",
}


def norm_row(provider, tokens, milliseconds, direction="both", ratio=1.0, **changes):
    case = case_of(tokens=tokens, channels=512, dtype="float32", padding="none")
    row = {"benchmark": "norm", "provider": provider, "case": case, "direction": direction, "median_ms": milliseconds}
    row |= {"p20_ms": 0.9 * milliseconds, "p80_ms": 1.1 * milliseconds, "gb_per_s": 12.5}
    return row | {"baseline": "torch LayerNorm", "ratio": ratio} | MACHINE | changes


def step_row(provider, words, ratio):
    row = {"benchmark": "step", "provider": provider, "case": case_of(tokens=4096, text="iwslt14"), "direction": ""}
    row |= {"median_ms": 5000.0, "p20_ms": 4900.0, "p80_ms": 5200.0, "words_per_s": words}
    return row | {"baseline": "stock ln", "ratio": ratio} | MACHINE


@pytest.fixture
def rows():
    made = [norm_row("torch LayerNorm", tokens, tokens / 1000) for tokens in (1024, 2048, 4096)]
    made += [norm_row("pn", tokens, tokens / 500, ratio=2.0) for tokens in (1024, 2048, 4096)]
    made += [norm_row("torch LayerNorm", 4096, 1.5, "forward"), norm_row("pn", 4096, 3.0, "forward", 2.0)]
    return [*made, step_row("stock ln", 440.0, 1.0), step_row("pn", 660.0, 0.667)]


def test_a_norms_table_has_a_line_for_each_with_its_ratios(rows):
    case = [row for row in rows if row["case"].startswith("tokens=4096 channels")]
    table = case_table(case)
    assert [column.name for column in table.columns] == [
        "",
        *("forward, ms", "×", "backward, ms", "×", "both, ms", "×"),
        "GB/s",
    ]
    assert list(table.rows[1]) == ["pn", "3.00 (2.70–3.30)", "2.00", "", "", "8.19 (7.37–9.01)", "2.00", "12.50"]


def test_an_updates_table_has_words_a_second_and_how_many_times_stock(rows):
    table = case_table(rows[-2:])
    assert list(table.rows[1]) == ["pn", "5,000 (4,900–5,200)", "660.0", "1.50"]


def test_growth_is_said_of_each(rows):
    found = series(rows)
    assert list(found) == [("tokens", "channels=512 dtype=float32 padding=none")]
    table = growth_table("tokens", found["tokens", "channels=512 dtype=float32 padding=none"])
    assert list(table.rows[1]) == ["pn", "2.05", "4.10", "8.19", "1.00", "0 %"]


def test_the_page_shows_the_newest_row_of_each_case_and_the_figure_is_the_same_again(rows, tmp_path):
    path = tmp_path / "benchmarks.csv"
    add_rows(path, [{"benchmark": "decoding", "provider": "bn", "case": "in other words", "median_ms": 77.7}])
    add_rows(path, rows)
    page = write(tmp_path)
    first, picture = page.read_text(), (tmp_path / "figures" / "speed.png").read_bytes()
    assert "8.19 (7.37–9.01)" in first
    assert "in other words" not in first
    assert "commit 0123456789ab;" in first
    write(tmp_path)
    assert (page.read_text(), (tmp_path / "figures" / "speed.png").read_bytes()) == (first, picture)
    add_rows(path, [norm_row("pn", 4096, 6.0, ratio=1.5), norm_row("pn", 4096, 5.0, hardware="another machine")])
    second = write(tmp_path).read_text()
    assert "6.00 (5.40–6.60)" in second
    assert "8.19 (7.37–9.01)" not in second
    assert "## another machine" in second
