"""The figure of batch statistics: it needs both records, and its texts are readable."""

import json
from pathlib import Path

from normplugins.report.fluctuation_figure import FIRST, PANELS, VISION, fluctuation
from tests.helpers.pictures import clipped, overlapping, written

UPDATES = (1, 3, 10, 32, 100, 316, 1000)


def points(size: float) -> list[dict[str, float]]:
    return [{"update": update, **dict.fromkeys(PANELS, size / update**0.3)} for update in UPDATES]


def publish(results: Path, name: str, content: dict[str, object]) -> None:
    path = results / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_it_is_drawn_when_both_records_are_there(tmp_path: Path) -> None:
    assert fluctuation(tmp_path) is None
    corpus = {"images": 10000, "published": False}
    publish(tmp_path, VISION, {"corpus": corpus, "points": points(0.1)})
    assert fluctuation(tmp_path) is None
    probe = [{"update": point["update"], "layers": {FIRST: point}} for point in points(1.0)]
    for seed in (1, 2):
        publish(tmp_path, f"runs/multi30k/bn/seed{seed}.json", {"statistics_probe": probe})
    figure = fluctuation(tmp_path)
    assert figure is not None
    texts = written(figure)
    assert "2 runs" in texts
    assert "not the published archive" in texts
    for label in PANELS.values():
        assert label.replace("\n", " ") in texts
    assert clipped(figure) == []
    assert overlapping(figure) == []
