import pytest

from normplugins.training import tracking
from normplugins.training.tracking import EVENTS, tracked
from normplugins.utils.errors import UserError

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def call(folder, update, points, final=None):
    options = {"dir": str(folder), "config": {"seed": 1}}
    with tracked(options, {}, "tensorboard", update) as tracker:
        for point in points:
            tracker.log("train", {"loss": 10 - point, "ppl": None}, point)
            tracker.log("valid", {"loss": 11 - point}, point)
        if final:
            tracker.summarize(final)


def read(folder):
    events = accumulator.EventAccumulator(str(folder / EVENTS)).Reload()
    return events, {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_resumed_run_has_each_point_once(tmp_path):
    call(tmp_path, 0, [1, 2, 3, 4])  # killed after update 4; the last checkpoint is of update 2
    call(tmp_path, 2, [3, 4, 5], {"test/bleu": 30.5, "signature": {"bleu": "nrefs:1"}})
    events, curves = read(tmp_path)
    assert curves["train/loss"] == [(n, 10 - n) for n in (1, 2, 3, 4, 5)]
    assert curves["valid/loss"] == [(n, 11 - n) for n in (1, 2, 3, 4, 5)]
    assert curves["test/bleu"] == [(5, 30.5)]
    assert "train/ppl" not in curves
    assert len(events.Tensors("config/text_summary")) == 1


def test_a_run_without_a_checkpoint_begins_again(tmp_path):
    call(tmp_path, 0, [1, 2])
    call(tmp_path, 0, [1])
    assert read(tmp_path)[1]["train/loss"] == [(1, 9)]


def test_it_is_refused_if_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        tracking.check_installed("tensorboard")
    tracking.check_installed("wandb")
