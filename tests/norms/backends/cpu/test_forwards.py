"""The compiled CPU code gives the same outputs, gradients and statistics as the plain code."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from normplugins.norms import NormConfig, build_norm, end_update
from normplugins.norms.backends.dispatch import backend_for
from tests.helpers.compiler import needs_libraries
from tests.helpers.norms import SWITCHES, buffers, random_affine, step

pytestmark = needs_libraries
NAMES = ("bn", "pnv", "pn", "pn_alg2", "rms")


def pair(name: str, **changes: Any) -> tuple[nn.Module, nn.Module]:
    """The norm of 8 channels by the fast code, and by the plain."""
    made = (build_norm(NormConfig(name, kernels=kernels, **changes), 8) for kernels in ("auto", "plain"))
    fast, plain = (random_affine(norm).double() for norm in made)
    return fast, plain


def same_steps(fast: nn.Module, plain: nn.Module, mask: Tensor | None, shape: tuple[int, ...], count: int = 4) -> None:
    for _ in range(count):
        x, g = torch.randn(2, *shape, dtype=torch.float64)
        x = 2 * x + 0.5
        got, want = step(fast, x, mask, g), step(plain, x, mask, g)
        assert_close(vars(got), vars(want), rtol=1e-9, atol=1e-11)
        end_update(fast)
        end_update(plain)
        assert_close(buffers(fast), buffers(plain), rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any),
    per_update=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_it_agrees_with_the_plain_code(name: str, lengths: list[int], per_update: bool, seed: int) -> None:
    torch.manual_seed(seed)
    settings = {"groups": 2, "warmup_updates": 3} if name == "pn" else {}
    mask = torch.arange(max(lengths)) >= torch.tensor(lengths).unsqueeze(1)
    same_steps(*pair(name, per_update=per_update, **settings), mask, (max(lengths), len(lengths), 8))
    same_steps(*pair(name, per_update=per_update, **settings), None, (sum(lengths), 8))


@pytest.mark.parametrize("on", [*((s,) for s in SWITCHES), (), SWITCHES])
@pytest.mark.parametrize("warmup", [0, 3])
def test_every_switch_of_pn_agrees_with_the_plain_code(on: tuple[str, ...], warmup: int) -> None:
    switches: dict[str, Any] = {switch: switch in on for switch in SWITCHES}
    mask = torch.tensor([[False] * 5, [False, False, True, True, True], [True] * 5])
    same_steps(*pair("pn", groups=2, warmup_updates=warmup, **switches), mask, (5, 3, 8), count=6)


@pytest.mark.parametrize("name", ["bn", "pnv", "pn_alg2", "rms"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_channel_groups_agree_with_the_plain_code(name: str, groups: int) -> None:
    mask = torch.tensor([[False] * 5, [False, False, True, True, True], [True] * 5])
    for per_update in (False, True):
        settings = {"groups": groups, "group_scaling": True, "per_update": per_update}
        same_steps(*pair(name, **settings), mask, (5, 3, 8))
        same_steps(*pair(name, **settings), None, (40, 8))


def test_a_gradient_may_be_not_contiguous() -> None:
    for name in NAMES:
        fast, plain = pair(name)
        x = torch.randn(6, 8, dtype=torch.float64)
        made = [
            torch.autograd.grad((norm(z, None).t() * torch.arange(6.0)).sum(), z)
            for norm in (fast, plain)
            for z in [x.clone().requires_grad_()]
        ]
        assert_close(made[0], made[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_norm_in_double_precision_takes_tokens_in_single(name: str) -> None:
    fast, plain = pair(name)
    for _ in range(3):
        x, g = torch.randn(2, 40, 8)
        assert_close(vars(step(fast, x, None, g)), vars(step(plain, x, None, g)), rtol=1e-4, atol=1e-5)


def test_it_is_selected_for_training_on_a_cpu_only() -> None:
    x = torch.ones(2, 4)
    assert backend_for("auto", x, True) == "cpu"
    assert backend_for("plain", x, True) is None
    assert backend_for("auto", x, False) is None
    assert backend_for("auto", x.to("meta"), True) is None
    assert backend_for("auto", x[:0], True) is None
