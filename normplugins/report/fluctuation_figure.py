"""How much batch statistics fluctuate in a transformer and in a ResNet20: the paper's Figure 2, and a relative measure.

The transformer's numbers are those of the statistics probe in the records of Multi30k with ``bn``, the ResNet20's those
that ``benchmarks/vision_statistics.py`` has written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from normplugins.report import style
from normplugins.runs.inventory import published_records
from normplugins.utils.json_file import read_json

VISION = "vision_statistics.json"
REMEDY = "restore it, or run python -m benchmarks.vision_statistics again"
FIRST = "encoder.layers.0.self_attention.norm"
PANELS = {
    "mean_distance": "distance of means\n‖μ_B − μ‖/d",
    "variance_distance": "distance of variances\n‖σ²_B − σ²‖/d",
    "mean_tid": "relative distance of means\n‖μ_B − μ‖/‖σ‖",
    "deviation_tid": "relative distance of deviations\n‖σ_B − σ‖/‖σ‖",
}
FROM = 10
"""The first update that is drawn; before, the running statistics are still near their initial values."""


def fluctuation(results: Path) -> Figure | None:
    """Draw the distance of a batch's statistics from the running ones, along training; None if a record is missing.

    Args:
        results: the folder with the records.

    Raises:
        UserError: a record is damaged.
    """
    vision = read_json(results / VISION, REMEDY)
    ended, _ = published_records(results, "multi30k", "bn")
    records = [read_json(path, "restore it") for path in ended]
    curves = [_points(record) for record in records if record and record.get("statistics_probe")]
    if not vision or not curves:
        return None
    images = f"{vision['corpus']['images']:,} images of CIFAR-10"
    if not vision["corpus"]["published"]:
        images += " (a part of them, not the published archive)"
    title = "The first BatchNorm: batch statistics against running ones"
    runs = "one run" if len(curves) == 1 else f"{len(curves)} runs"
    notes = [f"Transformer on Multi30k, {runs}, about 2,000 tokens a batch; ResNet20 on {images}, batch 128"]
    with style.drawing():
        figure = style.new_figure(5.2)
        axes = figure.subplots(2, 2, sharex=True)
        style.heading(figure, title, notes)
        for axis, (key, label) in zip(axes.flat, PANELS.items(), strict=True):
            for points in curves:
                _draw(axis, points, key, style.colour("bn"), "-")
            _draw(axis, vision["points"], key, style.colour("pn"), style.DASHES[1])
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set_title(label)
        for axis in axes[-1]:
            axis.set_xlabel("updates, log")
        axes[0, 0].set_ylabel("log")
        axes[1, 0].set_ylabel("log")
        axes[0, 0].plot([], [], color=style.colour("bn"), label="transformer")
        axes[0, 0].plot([], [], color=style.colour("pn"), linestyle=style.DASHES[1], label="ResNet20")
        axes[0, 0].legend(frameon=False, fontsize=8.5)
    return figure


def _points(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"update": point["update"], **point["layers"][FIRST]} for point in run["statistics_probe"]]


def _draw(axis: Axes, points: list[dict[str, Any]], key: str, colour: str, dashes: Any) -> None:
    shown = [point for point in points if point["update"] >= FROM and point.get(key)]
    updates, values = [point["update"] for point in shown], [point[key] for point in shown]
    axis.plot(updates, values, color=colour, linestyle=dashes)
