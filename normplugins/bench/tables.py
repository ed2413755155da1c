"""Tables of measurements, from their rows in benchmarks.csv: the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from normplugins.bench.growth import growth
from normplugins.bench.results import fields_of
from normplugins.report.parts import Column, Table
from normplugins.report.render import terminal, terminal_width

Row = Mapping[str, Any]
GROWING = ("tokens", "channels", "length", "types", "beam", "pairs")  # what a case may have more of
DIRECTIONS = ("forward", "backward", "both")
# Of the other benchmarks: the column of the rate, its name, and what a time is of.
RATES = {
    "step": ("words_per_s", "words/s", "an update"),
    "decode": ("sentences_per_s", "sentences/s", "all sentences"),
    "prepare": ("sentences_per_s", "pairs/s", "all pairs"),
}


def show(table: Table) -> None:
    """Print a table under its title."""
    plain = Table("", table.columns, table.rows, table.notes)
    print(f"{table.title}\n{terminal(plain, terminal_width())}\n", flush=True)


def case_table(rows: Sequence[Row]) -> Table:
    """The table of one case, whose rows these are."""
    first = rows[0]
    title = f"{first['benchmark']}: {first['case']}"
    if first["benchmark"] == "norm":
        return _norm_table(title, rows)
    column, rate, what = RATES[first["benchmark"]]
    cells = [[named(row), times(row), _number(row[column]), f"{1 / float(row['ratio']):.2f}"] for row in rows]
    head = ["", f"{what}, ms", rate, f"× {first['baseline']}"]
    return Table(title, _columns(head), cells, [_range_note(first), *_notes(first)])


def _norm_table(title: str, rows: Sequence[Row]) -> Table:
    by = {(row["provider"], row["direction"]): row for row in rows}
    cells = []
    for name in dict.fromkeys(row["provider"] for row in rows):
        line = [name]
        for direction in DIRECTIONS:
            row = by.get((name, direction))
            line += [times(row), f"{float(row['ratio']):.2f}"] if row else ["", ""]
        rated = by.get((name, "both")) or by.get((name, "forward")) or by[name, "backward"]
        cells.append([*line, _number(rated["gb_per_s"])])
    head = ["", *(cell for direction in DIRECTIONS for cell in (f"{direction}, ms", "×")), "GB/s"]
    notes = [f"×: times {rows[0]['baseline']}. GB/s: counted bytes, forward and backward together"]
    return Table(title, _columns(head), cells, [_range_note(rows[0]), *notes])


def growth_table(field: str, rows: Sequence[Row]) -> Table:
    """How the times of cases that differ in one field grow with it: an exponent, and the distance from a line."""
    by: dict[str, dict[int, float]] = {}
    for row in rows:
        by.setdefault(named(row), {})[int(fields_of(row["case"])[field])] = float(row["median_ms"])
    sizes = sorted({size for points in by.values() for size in points})
    cells = []
    for name, points in by.items():
        if len(points) >= min(3, len(sizes)):  # not what was measured in a case that a series runs through
            grown = growth(list(points), list(points.values()))
            line = [_number(points[size]) if size in points else "" for size in sizes]
            cells.append([name, *line, f"{grown.exponent:.2f}", f"{100 * grown.off_line:.0f} %"])
    others = {name: value for name, value in fields_of(rows[0]["case"]).items() if name != field}
    title = f"{rows[0]['benchmark']}: ms as {field} grow, {' '.join(f'{k}={v}' for k, v in others.items())}"
    note = "ms ~ size^exponent; off a line: the largest distance from a straight line, a fixed cost and one a unit"
    head = [f"{field}:", *(f"{size:,}" for size in sizes), "exponent", "off a line"]
    return Table(title, _columns(head), cells, [note])


def series(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows of growing work: (what grows, the rest of the case) -> rows, of three sizes at least."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        fields = fields_of(row["case"])
        for field in GROWING:
            if field in fields and row["direction"] in ("both", "", "all"):
                rest = " ".join(f"{name}={value}" for name, value in fields.items() if name != field)
                found.setdefault((field, rest), []).append(row)
    sized = {key: {fields_of(row["case"])[key[0]] for row in group} for key, group in found.items()}
    return {key: group for key, group in found.items() if len(sized[key]) > 2}


def named(row: Row) -> str:
    """Who was measured; of a corpus's preparation, at which stage."""
    return f"{row['provider']}: {row['direction']}" if row["benchmark"] == "prepare" else str(row["provider"])


def times(row: Row) -> str:
    """The median in ms, and the 20th and 80th percentile: ``1.45 (1.41–1.52)``."""
    median, p20, p80 = (_number(row[name]) for name in ("median_ms", "p20_ms", "p80_ms"))
    return f"{median} ({p20}–{p80})"


def _range_note(row: Row) -> str:
    return f"the median of {row['repeats']} turns (20th–80th percentile), {row['hardware']}"


def _notes(row: Row) -> list[str]:
    if row["benchmark"] != "prepare":
        return []
    return ["learning subwords is one process's work"]


def _columns(head: Sequence[str]) -> list[Column]:
    return [Column(name, right=index > 0) for index, name in enumerate(head)]


def _number(value: Any) -> str:
    value = float(value)
    return f"{value:,.{0 if value >= 1000 else 1 if value >= 100 else 2 if value >= 0.1 else 4}f}"
