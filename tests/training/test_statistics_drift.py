"""How far running statistics of several processes are apart, on states made by hand."""

import pytest
import torch
from torch import nn

from normplugins.norms import NormConfig, build_norm
from normplugins.training.statistics_drift import load_state, measure, state


@pytest.fixture
def model():
    """Two norms of two channels; the running means are zero, the variances one."""
    return nn.ModuleDict({name: build_norm(NormConfig(name="bn"), dim=2) for name in ("low", "high")})


def moved(model, **values):
    """The model's state with other values: ``low_running_var=[1, 2]``."""
    own = {name: value.clone() for name, value in state(model).items()}
    own |= {name.replace("_", ".", 1): torch.tensor(value) for name, value in values.items()}
    return own


def test_the_distance_is_relative_to_the_first_process(model):
    first = moved(model, low_running_var=[3.0, 4.0], high_running_var=[30.0, 40.0])
    second = moved(model, low_running_var=[3.0, 4.0], high_running_var=[30.0, 45.0])
    figures, line = measure(model, [first, second, first])
    # two variances of two other processes, of which one differs
    assert figures == {"drift_running_mean": 0, "drift_running_var": pytest.approx(0.025), "most_drift": 5 / 50}
    assert line == (
        "statistics of 3 processes differ from the first's by 0.0% in running_mean and 2.5% in running_var "
        "(means over norms), most in high.running_var: 10.0%"
    )


def test_what_is_near_zero_is_measured_by_its_like(model):
    first = moved(model, low_running_mean=[1e-9, 0.0], high_running_mean=[0.0, 2.0])
    second = moved(model, low_running_mean=[0.0, 1e-2], high_running_mean=[0.0, 2.0])
    figures, _ = measure(model, [first, second])
    assert figures["most_drift"] == pytest.approx(1e-2, rel=1e-3)  # of 1, the mean norm of the two


def test_the_same_statistics_have_not_drifted(model):
    figures, line = measure(model, [moved(model)] * 2)
    assert figures == {"drift_running_mean": 0, "drift_running_var": 0, "most_drift": 0}
    assert line == "statistics of 2 processes are the same"


def test_one_process_and_norms_without_statistics_have_nothing_to_compare(model):
    assert measure(model, []) == ({}, "")
    assert state(nn.ModuleDict({"norm": build_norm(NormConfig(name="ln"), dim=2)})) == {}


def test_counts_are_kept_too():
    model = nn.ModuleDict({"norm": build_norm(NormConfig(name="pn", groups=1), dim=2)})
    values = moved(model, norm_num_updates=7)
    load_state(model, values)
    assert int(model["norm"].num_updates) == 7
