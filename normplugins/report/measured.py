"""CSV tables in the results that ``normplugins analyze`` extends, one norm or one run at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from normplugins.report.records import norm_rank
from normplugins.report.table import build_table, markdown
from normplugins.utils.errors import UserError
from normplugins.utils.files import whole_file


def read_measured(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a table; it is empty if there is no file. Raises UserError if it cannot be read."""
    if not path.exists():
        return pd.DataFrame(columns=list(columns))
    try:
        found = pd.read_csv(path)
        if list(found.columns) != list(columns):
            raise ValueError(f"its columns are {', '.join(found.columns)}")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it, and measure its rows again") from error
    return found


def add_measured(
    path: Path, columns: Sequence[str], keys: Sequence[str], rows: Iterable[dict[str, Any]]
) -> pd.DataFrame:
    """Add rows to a table, in place of older rows with the same keys; write the table and return it.

    The rows are sorted by the keys; ``norm`` and ``cell`` are in the order of the norms.

    Raises:
        UserError: the table cannot be read.
        OSError: it cannot be written.
    """
    new, old = pd.DataFrame(rows, columns=list(columns)), read_measured(path, columns)
    same = pd.MultiIndex.from_frame(old[[*keys]]).isin(pd.MultiIndex.from_frame(new[[*keys]]))
    every = pd.concat([old[~same], new]) if len(old[~same]) else new

    def order(column: pd.Series[Any]) -> pd.Series[Any]:
        named = column.name in ("norm", "cell")
        return column.map(lambda name: (*norm_rank(name.split(",")[0]), name)) if named else column

    every = every.sort_values([*keys], key=order, kind="stable", ignore_index=True)
    with whole_file(path) as temporary:
        every.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    return every


def numbers_table(index: str, numbers: pd.DataFrame, form: str) -> str:
    """Return numbers as a Markdown table; ``index`` is the heading of the rows' names, NaN is an empty cell."""
    texts = numbers.map(lambda value: "" if pd.isna(value) else form.format(value)).reset_index(names=index)
    rows: list[Any] = texts.to_dict("records")
    return markdown(build_table("", rows, texts=[index]))
