"""Distances between running statistics of several processes, on states made by hand."""

import pytest
import torch
from torch import nn

from normplugins.norms import NormConfig, build_norm
from normplugins.training.statistics_drift import load_state, measure, state


@pytest.fixture
def model():
    """Return two norms of two channels with running means 0 and variances 1."""
    return nn.ModuleDict({name: build_norm(NormConfig(name="bn"), dim=2) for name in ("low", "high")})


def moved(model, **values):
    """Return the model's state with changed values, such as ``low_running_var=[1, 2]``."""
    own = {name: value.clone() for name, value in state(model).items()}
    own |= {name.replace("_", ".", 1): torch.tensor(value) for name, value in values.items()}
    return own


def test_distances_are_relative_to_rank_zero(model):
    first = moved(model, low_running_var=[3.0, 4.0], high_running_var=[30.0, 40.0])
    second = moved(model, low_running_var=[3.0, 4.0], high_running_var=[30.0, 45.0])
    figures, line = measure(model, [first, second, first])
    # two variances of two other processes, of which one differs
    assert figures == {"drift_running_mean": 0, "drift_running_var": pytest.approx(0.025), "most_drift": 5 / 50}
    assert line == (
        "statistics of 3 processes differ from the first's by 0.0% in running_mean and 2.5% in running_var "
        "(means over norms), most in high.running_var: 10.0%"
    )


def test_a_norm_near_zero_is_replaced_by_the_mean_norm(model):
    first = moved(model, low_running_mean=[1e-9, 0.0], high_running_mean=[0.0, 2.0])
    second = moved(model, low_running_mean=[0.0, 1e-2], high_running_mean=[0.0, 2.0])
    figures, _ = measure(model, [first, second])
    assert figures["most_drift"] == pytest.approx(1e-2, rel=1e-3)  # of 1, the mean norm of the two


def test_equal_statistics_have_no_drift(model):
    figures, line = measure(model, [moved(model)] * 2)
    assert figures == {"drift_running_mean": 0, "drift_running_var": 0, "most_drift": 0}
    assert line == "statistics of 2 processes are the same"


def test_no_drift_for_one_process_and_norms_without_statistics(model):
    assert measure(model, []) == ({}, "")
    assert state(nn.ModuleDict({"norm": build_norm(NormConfig(name="ln"), dim=2)})) == {}


def test_update_counts_are_part_of_the_state():
    model = nn.ModuleDict({"norm": build_norm(NormConfig(name="pn", groups=1), dim=2)})
    values = moved(model, norm_num_updates=7)
    load_state(model, values)
    assert int(model["norm"].num_updates) == 7
