"""``train.compile=true``: equal losses, the same names in checkpoints, and settings that it is refused with."""

from functools import partial

import pytest
import torch

from normplugins.models.layers import compile_layers
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config
from normplugins.training import loop
from normplugins.utils.errors import UserError
from normplugins.utils.json_file import read_json
from tests.helpers.compiler import needs_torch_compile
from tests.helpers.runs import TINY

pytestmark = needs_torch_compile
NO_DROPOUT = ["model.dropout=0", "model.attention_dropout=0", "model.activation_dropout=0"]
SHORT = ["optimization.max_update=6", "evaluate.average=null", "evaluate.translate=false"]


@pytest.mark.slow
def test_losses_and_checkpoint_names_are_the_same_as_without(accepted, trained, tmp_path, monkeypatch):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "compile_layers", partial(compile_layers, backend="eager"))
    records = {}
    for name, overrides in {"plain": [], "compiled": ["train.compile=true"]}.items():
        arguments = ["run", "demo", "norm=ln", "tracking=none", f"run_dir={name}", f"data_dir={trained.data_dir}"]
        accepted(*arguments, *TINY, *SHORT, *NO_DROPOUT, *overrides)
        records[name] = read_json(tmp_path / name / "record.json", "")
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 2  # one for each kind of layer
    assert not counters["graph_break"]
    plain, compiled = records["plain"], records["compiled"]
    assert [point["loss"] for point in compiled["curves"]["train"]] == pytest.approx(
        [point["loss"] for point in plain["curves"]["train"]], rel=1e-4
    )
    assert (compiled["config"]["train.compile"], plain["config"]["train.compile"]) == (True, False)
    assert compiled["variant"] != plain["variant"]  # it draws other dropout masks
    states = [torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=False)["model"] for name in records]
    assert list(states[0]) == list(states[1])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.checkpoint_activations=true"], "checkpoint_activations"),
        (["norm=bn", "norm.sync=batch", "hardware=cpu", "hardware.processes=2"], "norm.sync=batch"),
    ],
)
def test_settings_that_compile_is_refused_with(overrides, words):
    with pytest.raises(UserError, match=words):
        check(compose_config("demo", ["train.compile=true", *overrides]))


def test_compile_is_refused_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="no C\\+\\+ compiler 'no-such-compiler'"):
        check(compose_config("demo", ["train.compile=true", "hardware=cpu"]))
