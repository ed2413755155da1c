"""Measures the texts of a drawn figure."""

from functools import lru_cache
from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from normplugins.report import style


@lru_cache(maxsize=1)  # a test asks several times about the figure that it has drawn
def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """Each text that is drawn, and the pixels that it covers."""
    with style.drawing():  # an annotation is measured without its leader
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
        ticks = {
            id(label)
            for axes in figure.axes
            for axis, interval in ((axes.xaxis, axes.viewLim.intervalx), (axes.yaxis, axes.viewLim.intervaly))
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
            for label in (tick.label1, tick.label2)
            if not min(interval) <= tick.get_loc() <= max(interval)  # matplotlib keeps these, and does not draw them
        }
        shown = [text for text in texts if id(text) not in ticks]
        return [(text.get_text(), Text.get_window_extent(text, canvas.get_renderer())) for text in shown]


def clipped(figure: Figure) -> list[str]:
    """The texts that do not lie entirely on the canvas."""
    found = boxes(figure)
    width, height = figure.get_size_inches() * figure.dpi
    inside = Bbox([[0, 0], [width, height]])
    return [
        text
        for text, box in found
        if not (inside.containsx(box.x0) and inside.containsx(box.x1))
        or not (inside.containsy(box.y0) and inside.containsy(box.y1))
    ]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """The pairs of texts that overlap."""
    both = combinations(boxes(figure), 2)
    return [(one, other) for (one, first), (other, second) in both if first.padded(-1).overlaps(second.padded(-1))]


def assert_legible(figure: Figure) -> None:
    assert not (texts := clipped(figure)), texts
    assert not (pairs := overlapping(figure)), pairs


def written(figure: Figure) -> str:
    """All texts of the figure, with spaces in place of their line breaks."""
    return "\n".join(text.replace("\n", " ") for text, _ in boxes(figure))
