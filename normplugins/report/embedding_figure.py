"""Draws the singular values of the embeddings of trained runs, which ``normplugins analyze embedding`` has measured."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normplugins.norms import NormConfig
from normplugins.report import style
from normplugins.report.contrasts import CELLS, EXPERIMENT
from normplugins.report.measured import read_measured

TABLE = "embedding_singular_values.csv"
KEYS = ["experiment", "cell", "seed"]
COLUMNS = [*KEYS, "embedding", "index", "singular_value"]


def spectrum(results: Path) -> tuple[Figure, pd.DataFrame] | None:
    """Return the figure of the runs of Multi30k and the rows that it shows; None if none was measured.

    Raises:
        UserError: the table cannot be read.
    """
    table = read_measured(results / TABLE, COLUMNS)
    table = table[(table["experiment"] == EXPERIMENT) & table["cell"].isin([*CELLS])]
    table = table[table["embedding"] == "encoder.embed_tokens"]
    if table.empty:
        return None
    values = table.pivot(index="index", columns=["cell", "seed"], values="singular_value")
    values /= values.max()  # relative to the largest one of a run
    values = values[table[["cell", "seed"]].drop_duplicates().itertuples(index=False, name=None)]
    means = values.T.groupby(level="cell", sort=False).mean().T
    cells = [str(cell) for cell in means]
    norms = list(dict.fromkeys(cell.split(",")[0] for cell in cells if cell != "ln")) if "ln" in cells else []
    columns, rows = 3, -(-len(norms) // 3)
    with style.drawing():
        figure = style.new_figure(3 + 1.6 * rows)
        grid = figure.add_gridspec(1 + rows, columns)
        whole = figure.add_subplot(grid[0, :])
        for cell in cells:
            whole.plot(means.index, means[cell], color=style.color(cell.split(",")[0]), linewidth=1)
        whole.set_yscale("log")
        style.few_log_labels(whole.yaxis)
        whole.set_title(f"all {len(cells)} cells")
        whole.set_ylabel("value / largest,\nlog")
        shared: Axes | None = None
        for number, norm in enumerate(norms):
            axis = figure.add_subplot(grid[1 + number // columns, number % columns], sharey=shared)
            shared = shared or axis
            for _, line in values["ln"].items():
                axis.plot(line.index, line / means["ln"], color=style.GREY, linewidth=0.8)
            for cell in [cell for cell in cells if cell.split(",")[0] == norm]:
                look: dict[str, Any] = {"color": style.color(norm), "linestyle": style.DASHES[_in_groups(cell)]}
                axis.plot(means.index, means[cell] / means["ln"], linewidth=1.2, **look)
            axis.set_title(norm)
            axis.set_xlabel("index, linear")
            axis.set_ylabel("" if number % columns else "ratio to the mean\nof ln, linear")
            axis.tick_params(labelleft=not number % columns)
        if norms:
            named = {"group scaling (rms: 4 groups)": style.DASHES[1], "no group scaling": "-"}
            looks: dict[str, Any] = {name: {"color": "#333333", "linestyle": line} for name, line in named.items()}
            style.legend(figure, looks | {"each seed of ln": {"color": style.GREY, "linewidth": 0.8}}, 3)
    return figure, table


def _in_groups(cell: str) -> bool:
    """Return whether the norm of a cell divides groups of a token's channels by their root mean square."""
    by_default = NormConfig(cell.split(",")[0]).resolve(heads=4).group_scaling and "group_scaling=false" not in cell
    return bool(by_default) or "group_scaling=true" in cell or "groups=" in cell
