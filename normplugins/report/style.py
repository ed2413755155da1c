"""The look of every figure: colors of the norms, text that stays on the canvas, labels beside lines, PNG and SVG."""

import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from normplugins.report.records import norm_rank
from normplugins.utils.files import whole_file

WIDTH = 5.6
"""Width of figures in inches: a column of text in print. On a phone 360 pixels wide, 9-point text is 8 pixels high."""
DPI = 200
GREY = "#767676"
# In the order of norm_rank: gray for the baseline LN, the color-blind safe colors of Okabe and Ito and of Tol's muted
# set, and four darker colors. So many colors cannot all be told apart, so figures name each line.
COLORS = (
    *(GREY, "#E69F00", "#D55E00", "#56B4E9", "#0072B2", "#44AA99", "#999933", "#332288"),
    *("#CC6677", "#009E73", "#CC79A7", "#882255", "#117733", "#DDCC77", "#AA4499", "#661100", "#6699CC", "#000000"),
    *("#8C6D31", "#5254A3", "#BD9E39", "#7B4173"),
)
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
"""Line styles that tell lines of one color apart."""
FORMATS = {"png": "Software", "svg": "Creator"}
"""The file formats of a figure, each with its metadata key for the program that made the file."""
RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "svg.hashsalt": "normplugins",
}


class Label(NamedTuple):
    """A text that labels the height ``y`` of an axis."""

    y: float
    text: str
    color: str


def drawing() -> AbstractContextManager[None]:
    """Use this module's matplotlib settings in the block, and restore the user's own settings afterwards."""
    return mpl.style.context(RC, after_reset=True)


def new_figure(height: float) -> Figure:
    """Return an empty figure of this height in inches. Call it inside :func:`drawing`."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write(figure: Figure, stem: Path, maker: str | None = None) -> list[Path]:
    """Write ``stem.png`` and ``stem.svg`` and return their paths. The same figure gives the same bytes.

    The metadata of both files name the ``maker``.

    Raises:
        OSError: a file cannot be written.
    """
    paths = []
    for kind, made_by in FORMATS.items():
        path = stem.with_name(f"{stem.name}.{kind}")  # with_suffix would cut a name that has a dot
        with drawing(), whole_file(path) as temporary:
            figure.savefig(temporary, format=kind, metadata={made_by: maker, "Date": None})  # no date: the same bytes
        paths.append(path)
    return paths


def color(norm: str) -> str:
    """Return the norm's color, which is the same in every figure, even for a norm that is not installed."""
    rank, name = norm_rank(norm)
    known = rank < norm_rank("")[0]
    return COLORS[(rank if known else zlib.crc32(name.encode())) % len(COLORS)]


def fit(text: str, inches: float, size: float, weight: str = "normal") -> str:
    """Break a text into lines that are at most ``inches`` long at this font ``size`` in points."""
    font = get_font(findfont(FontProperties(family=RC["font.family"], weight=weight)))
    font.set_size(size, 72)

    def length(line: str) -> float:
        font.set_text(line)
        return font.get_width_height()[0] / 64 / 72  # FreeType counts 64ths of a point

    for characters in range(max(8, int(inches * 72 / (0.45 * size))), 7, -1):
        lines = [part for line in text.splitlines() for part in wrap(line, characters, break_on_hyphens=False)]
        if max(map(length, lines), default=0) <= inches:
            break
    return "\n".join(lines)


def heading(figure: Figure, title: str, notes: Sequence[str] = ()) -> None:
    """Put a title above the axes and notes below them, broken into lines so that nothing is cut at the edge.

    Call it after :func:`legend`, which then stands below the notes.
    """
    inches = figure.get_size_inches()[0] - 0.35
    figure.suptitle(fit(title, inches, 10, "bold"), fontsize=10, fontweight="bold")
    text = "\n".join(fit(note, inches, 8.5) for note in notes)
    # the layout keeps room at the lower edge for a legend or a shared x label, but not for both
    if figure.legends:
        figure.legends[0].set_title(text)
    elif text:
        figure.supxlabel(text, fontsize=8.5, x=0.02, ha="left", color="#333333")


def legend(figure: Figure, looks: Mapping[str, Mapping[str, Any]], columns: int) -> None:
    """Add a legend below the axes; ``looks`` maps names to arguments of :class:`matplotlib.lines.Line2D`."""
    handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5, title_fontsize=8.5
    )


def dot(axis: Axes, row: int, value: float, interval: tuple[float, float] | None, color: str, several: bool) -> None:
    """Draw a value with its interval, if any; a value over ``several`` seeds is filled and has a bold bar."""
    if interval is not None:
        axis.plot(interval, [row, row], color=color, linewidth=2.8 if several else 1, solid_capstyle="butt")
    axis.plot(value, row, "o", color=color, markersize=6, mfc=color if several else "white")


def log_axes(axis: Axes) -> None:
    """Make both axes logarithmic, with few labels that fit into narrow panels. Call it after drawing the lines.

    The x axis counts updates.
    """
    axis.set_xscale("log")
    axis.set_yscale("log")
    few_log_labels(axis.yaxis)
    axis.xaxis.set_major_locator(LogLocator(numticks=4))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_formatter(NullFormatter())


def few_log_labels(axis: Axis) -> None:
    """Label a logarithmic axis at a few values, even if it spans less than a power of ten."""
    low, high = axis.get_view_interval()
    by_span = {3: (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), 5: (1, 1.5, 2, 3, 5, 7), 20: (1, 2, 5), 200: (1, 3)}
    subs = next((subs for span, subs in by_span.items() if high < span * low), (1,))
    axis.set_major_locator(LogLocator(subs=subs, numticks=4))
    axis.set_major_formatter(lambda value, _: f"{value:g}" if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e-"))
    axis.set_minor_formatter(NullFormatter())


def spread(positions: Sequence[float], gap: float) -> np.ndarray:
    """Return positions (N) that keep their order, are at least ``gap`` apart, and have moved as little as possible."""
    order = np.argsort(positions, kind="stable")
    steps = np.arange(len(order)) * gap
    blocks: list[tuple[float, int]] = []  # mean and number of neighbors that touch: isotonic regression
    for value in np.asarray(positions, dtype=float)[order] - steps:
        mean, count = float(value), 1
        while blocks and blocks[-1][0] > mean:
            before, members = blocks.pop()
            mean, count = (mean * count + before * members) / (count + members), count + members
        blocks.append((mean, count))
    moved = np.empty(len(order))
    moved[order] = np.repeat([mean for mean, _ in blocks], [count for _, count in blocks]) + steps
    return moved


def label_lines(axis: Axes, labels: Sequence[Label]) -> None:
    """Write labels beside the right edge of an axis at the heights of their lines, moved apart where they overlap.

    Call it after setting the limits of the axis; the axis becomes narrower to make room for the labels.
    """
    figure = axis.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout decides how high the axis is
    scale = axis.yaxis.get_transform()  # so that the labels of a logarithmic axis are apart too
    low, high = scale.transform(axis.get_ylim())
    heights = scale.transform([label.y for label in labels])
    lines = max(label.text.count("\n") + 1 for label in labels)
    gap = lines * 1.25 * RC["font.size"] / 72 * figure.dpi / axis.get_window_extent().height * (high - low)
    for label, y in zip(labels, scale.inverted().transform(spread(np.clip(heights, low, high), gap)), strict=True):
        axis.annotate(
            label.text, xy=(1, label.y), xytext=(1.04, y), color=label.color, va="center", annotation_clip=False,
            xycoords=axis.get_yaxis_transform(), textcoords=axis.get_yaxis_transform(),
            arrowprops={"arrowstyle": "-", "color": label.color, "linewidth": 0.6, "relpos": (0, 0.5),
                        "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
