"""Dynamic Tanh and Derf: functions of each number, with learned scalars."""

import numpy as np
import pytest
import torch

from normplugins.norms import NormConfig, build_norm
from tests.helpers.norms import GOLDEN, replay


@pytest.mark.parametrize(
    ("name", "file", "scalars"), [("dyt", "dynamic_tanh", ["alpha"]), ("derf", "derf", ["alpha", "shift"])]
)
def test_the_released_code_is_reproduced(name: str, file: str, scalars: list[str]) -> None:
    vectors = np.load(GOLDEN / f"{file}_released.npz")
    settings = {f"{key}_init": float(vectors[f"meta_{key}_init"]) for key in scalars}
    norm = build_norm(NormConfig(name, **settings), len(vectors["weight"]))
    replay(norm, vectors, ())
    for key in scalars:  # of the last step, as replay leaves them
        torch.testing.assert_close(
            norm.get_parameter(key).grad, torch.from_numpy(vectors[f"g{key}"][-1]), rtol=0, atol=1e-9
        )


@pytest.mark.parametrize(("name", "setting"), [("dyt", "alpha_init"), ("derf", "alpha_init"), ("derf", "shift_init")])
def test_a_whole_number_is_an_initial_value(name: str, setting: str) -> None:
    norm = build_norm(NormConfig(name, **{setting: 1}), 4)
    assert norm.get_parameter(setting.removesuffix("_init")).tolist() == [1.0]
