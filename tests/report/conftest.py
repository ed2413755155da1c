"""The tables of a report as a test reads them: rows of cells, from the page."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from normplugins.report.page import report


class Page:
    """results/README.md, taken apart."""

    def __init__(self, results: Path) -> None:
        with redirect_stdout(StringIO()) as printed:
            report(results)
        self.terminal = printed.getvalue()
        self.text = (results / "README.md").read_text(encoding="utf-8")

    def section(self, heading: str) -> str:
        """The text under the first heading that begins with these words, up to the next heading."""
        match = re.search(rf"^#+ {re.escape(heading)}.*?\n(.*?)(?=^#|\Z)", self.text, re.MULTILINE | re.DOTALL)
        assert match, f"no heading {heading!r} in:\n{self.text}"
        return match.group(1)

    def rows(self, heading: str) -> dict[str, dict[str, str]]:
        """The rows of the table under a heading, by their first cell; each a dict by column, in order."""
        lines = [line for line in self.section(heading).splitlines() if line.startswith("|")]
        cells = [[cell.strip().replace("<br>", " ") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        head, _, *body = cells
        assert all(len(row) == len(head) for row in body)
        rows = {row[0]: dict(zip(head, row, strict=True)) for row in body}
        assert len(rows) == len(body), "two rows of one name"
        return rows


@pytest.fixture
def page(tmp_path: Path):
    """Make the page of the records put under ``tmp_path``."""
    return lambda: Page(tmp_path)
