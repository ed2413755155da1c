"""Collects the parts of a report: text of pages and of the terminal, and the files of tables and figures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill

import pandas as pd
from matplotlib.figure import Figure

from normplugins.report import style
from normplugins.report.figures import curves
from normplugins.report.scores_figure import final_scores
from normplugins.report.table import latex, markdown
from normplugins.utils.files import whole_file
from normplugins.utils.terminal import Table, paragraph, terminal

WIDTH = 120
"""The longest line of a page's paragraphs, in characters."""
CURVES = {"valid_curve": ("", "Validation loss"), "train_curve": ("-training", "Training loss")}
"""The suffix of a figure's file name and its caption, for each curve of a record."""


def wrapped(text: str) -> str:
    """Wrap a paragraph into lines, none of which begins with a minus, which Markdown would read as a list item."""
    joined = text.replace(" - ", "\0- ")
    return fill(joined, WIDTH, break_long_words=False, break_on_hyphens=False).replace("\0", " ")


class Writer:
    """Collects the parts of the page and of the terminal's text, and writes the files of each table."""

    def __init__(self, folder: Path, width: int | None) -> None:
        self.folder, self.width = folder, width
        self.page: list[str] = []
        self.printed: list[str] = []
        self.written: list[Path] = []

    def say(self, text: str) -> None:
        """Add a paragraph to the page and to the terminal's text."""
        self.page.append(wrapped(text))
        self.printed.append(paragraph(text, self.width))

    def tell(self, echo: Callable[[str], None]) -> None:
        """Pass the terminal's text and the name of each file written to ``echo``."""
        for text in [*(f"{text}\n" for text in self.printed), *(f"written: {path}" for path in self.written)]:
            echo(text)

    def table(self, table: Table, heading: str, texts: Sequence[str] = ()) -> None:
        """Add a table under its heading, with paragraphs between the two."""
        self.printed.append(terminal(table, self.width))
        self.page += [f"{heading} {table.title}", *filter(None, texts), markdown(table)]
        self.write(f"tables/{table.slug}.tex", latex(table))

    def draw(self, name: str, runs: pd.DataFrame) -> None:
        """Draw the loss curves and the final scores of runs of an experiment, for each schedule.

        ``name`` is the name of the files, and what the titles call the runs.
        """
        for budget, members in ((str(key), members) for key, members in runs.groupby("budget", sort=False)):
            each = name if not budget or name.endswith(f"-budget-{budget}") else f"{name}-budget-{budget}"
            self.page += self.show(final_scores(members, each), f"{each}-scores", f"Scores of {each} with intervals")
            for column, (ending, title) in CURVES.items():
                if any(members[column]):
                    self.page += self.show(curves(members, each, column), f"{each}{ending}", f"{title} of {each}")

    def write(self, name: str, text: str) -> None:
        """Write a text file of the results."""
        with whole_file(self.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        self.written.append(self.folder / name)

    def write_each(self, pattern: str, texts: Mapping[str, str]) -> None:
        """Write text files that match a pattern, and remove other files that match it, whose records are gone."""
        for path in set(self.folder.glob(pattern)) - {self.folder / name for name in texts}:
            path.unlink()
        for name, text in texts.items():
            self.write(name, text)
        self.written[len(self.written) - len(texts) :] = [self.folder / pattern]

    def show(self, figure: Figure | None, name: str, caption: str) -> list[str]:
        """Write a figure as PNG and as SVG, and return the Markdown that shows it; an empty list without a figure."""
        if figure is None:
            return []
        self.written += style.write(figure, self.folder / "figures" / name)
        return [f"[![{caption}](figures/{name}.png)](figures/{name}.svg)"]
