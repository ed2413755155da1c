import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from normplugins.training.checkpoint_seal import digest, find_damage, find_difference, seal

RUN = {"cell": "demo/pn", "seed": 1, "settings": "ab", "corpus": "cd"}


def checkpoint() -> dict:
    generator = torch.Generator().manual_seed(0)
    model = {
        "encoder.weight": torch.randn(3, 2, generator=generator),
        "encoder.norm.running_phi": torch.ones(2),
        "encoder.norm.running_var": torch.ones(2),
        "encoder.norm.window_phi": torch.ones(4, 2),
        "encoder.norm.num_updates": torch.tensor(7),
        "half": torch.ones(3, dtype=torch.bfloat16),
    }
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3, 2)}}, "param_groups": [{"lr": 0.1}]}
    return {"model": model, "last_optimizer_state": optimizer, "extra_state": {"history": {"updates": 7}}}


def sealed() -> dict:
    state = checkpoint()
    state["extra_state"]["seal"] = {"run": dict(RUN)}
    seal(state)
    return state


def test_a_sealed_checkpoint_is_sound_after_writing_and_reading(tmp_path):
    torch.save(sealed(), tmp_path / "x.pt")
    assert find_damage(torch.load(tmp_path / "x.pt", weights_only=True)) is None


@given(byte=st.integers(0, 23), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_weight_is_found(byte, bit):
    state = sealed()
    state["model"]["encoder.weight"].view(torch.uint8).view(-1)[byte] ^= 1 << bit
    assert find_damage(state) == "its content has changed since it was written"


def test_every_value_outside_the_weights_counts_too():
    for change in (
        lambda state: state["extra_state"]["history"].update(updates=8),
        lambda state: state["last_optimizer_state"]["param_groups"][0].update(lr=0.2),
        lambda state: state["last_optimizer_state"]["state"][0]["exp_avg"].add_(1),
        lambda state: state["model"].update(more=torch.ones(1)),
        lambda state: state["extra_state"]["seal"]["run"].update(seed=2),
        lambda state: state["extra_state"]["seal"].update(sha254=state["extra_state"]["seal"].pop("sha256")),
        lambda state: state["model"].update({"half": state["model"]["half"].float()}),
    ):
        state = sealed()
        change(state)
        assert find_damage(state) == "its content has changed since it was written"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("encoder.weight", float("nan"), "encoder.weight is not finite"),
        ("half", float("inf"), "half is not finite"),
        ("encoder.norm.running_phi", -1.0, "encoder.norm.running_phi is a mean of squares and has negative values"),
        ("encoder.norm.running_var", -1.0, "encoder.norm.running_var is a mean of squares and has negative values"),
        ("encoder.norm.window_phi", -1.0, "encoder.norm.window_phi is a mean of squares and has negative values"),
    ],
)
def test_impossible_values_are_found_even_if_they_were_sealed(name, value, message):
    state = checkpoint()
    state["model"][name].view(-1)[0] = value
    assert find_damage(state) == message
    seal(state)
    assert find_damage(state) == message


def test_the_optimizers_state_must_be_finite_too():
    state = checkpoint()
    state["last_optimizer_state"]["state"][0]["exp_avg"][1, 0] = float("inf")
    assert find_damage(state) == "state/0/exp_avg is not finite"


def test_a_checkpoint_of_another_run_is_told_apart_by_what_differs():
    assert find_difference(sealed(), RUN) is None
    assert find_difference(sealed(), RUN | {"seed": 2}) == "seed 1 there and 2 here"
    assert find_difference(checkpoint(), RUN) is None  # one without a seal may be of any run


def test_the_hash_is_of_content_and_not_of_memory():
    state = checkpoint()
    other = copy.deepcopy(state)
    other["model"]["encoder.weight"] = other["model"]["encoder.weight"].t().contiguous().t()
    assert digest(state) == digest(other)
