"""results/speed.md and its figure: the newest measurement of each case on each machine, from benchmarks.csv alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from normplugins.bench.results import CSV, fields_of, read_rows
from normplugins.bench.speed_figure import draw
from normplugins.bench.tables import Row, case_table, growth_table, series
from normplugins.report.render import markdown
from normplugins.utils.files import whole_file

PAGE, FIGURE = "speed.md", Path("figures") / "speed.png"
TITLES = {
    "norm": "One norm",
    "step": "A training update",
    "decode": "Beam search and scoring",
    "prepare": "Preparing a corpus",
}
HEAD = """# Speed

Made by `normplugins bench` from [benchmarks.csv]({csv}): of each case the newest row on each machine. What was
predicted, and what was tried and dropped, is in [docs/speed.md](../docs/speed.md)."""


def write(results: Path) -> Path:
    """Write page and figure of what has been measured; returns the page's path.

    Raises:
        UserError: the measurements cannot be read, or the page cannot be written.
    """
    rows = newest(read_rows(results / CSV))
    parts = [HEAD.format(csv=CSV)]
    for hardware in dict.fromkeys(row["hardware"] for row in rows):
        here = [row for row in rows if row["hardware"] == hardware]
        parts.append(f"## {hardware}")
        for benchmark, title in TITLES.items():
            if of_it := [row for row in here if row["benchmark"] == benchmark]:
                parts += [f"### {title}", measured_with(of_it), *tables(of_it)]
    # the machine with the newest row: one figure cannot compare machines
    shown = [row for row in rows if row["hardware"] == max(rows, key=lambda row: row["date"])["hardware"]]
    with whole_file(results / FIGURE) as temporary:
        draw(shown, temporary)
    parts.insert(1, f"![growth of the costs]({FIGURE.as_posix()})")
    with whole_file(results / PAGE) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return results / PAGE


def newest(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The last row of each provider, case, direction and machine, among those that a benchmark here has added."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        if row["benchmark"] in TITLES and fields_of(row["case"]):
            found[tuple(row[name] for name in ("benchmark", "provider", "case", "direction", "hardware"))] = row
    return list(found.values())


def tables(rows: Sequence[Row]) -> list[str]:
    """Tables in Markdown: of growing work one for each kind, and one for each other case."""
    growing = series(rows)
    grown = {row["case"] for group in growing.values() for row in group}
    # A case of all norms, or of all that was measured, is a table of its own even where a series runs through it.
    alone = [row for row in rows if row["case"] not in grown or row["direction"] not in ("both", "", "all")]
    cases = [[row for row in rows if row["case"] == case] for case in dict.fromkeys(row["case"] for row in alone)]
    made = [case_table(case) for case in cases]
    made += [growth_table(field, group) for (field, _), group in growing.items()]
    return [f"**{table.title}**\n\n{markdown(table)}" for table in made]


def measured_with(rows: Sequence[Row]) -> str:
    """Versions, commits and days of these rows."""

    def each(column: str) -> str:
        return ", ".join(dict.fromkeys(row[column] for row in rows if row[column]))

    commits = ", ".join(dict.fromkeys(re.sub(r"(?<=^.{12})[0-9a-f]+", "", row["commit"]) for row in rows))
    days = ", ".join(dict.fromkeys(row["date"][:10] for row in rows))
    versions = "; ".join(f"{name} {each(name)}" for name in ("torch", "triton", "fairseq") if each(name))
    return f"{versions}; commit {commits}; {days}; load before: {each('load')}."
