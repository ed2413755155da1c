"""The compiled kernels are as exact as PyTorch in single precision, with any number of threads."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normplugins.norms import NormConfig, build_norm
from normplugins.norms.backends.cpu import kernels
from normplugins.norms.backends.dispatch import backend_for
from tests.helpers.compiler import needs_libraries
from tests.helpers.norms import buffers, random_affine, step

pytestmark = needs_libraries
NORMS = ("pn", "pn_alg2", "pnv", "bn", "rms", "pn_alg2 in groups", "pnv in groups", "rms in groups")


def batch(tokens: int, dim: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x with means away from 0 and g (tokens, dim), and a mask that takes every seventh."""
    generator = torch.Generator().manual_seed(seed)
    x, g = torch.randn(2, tokens, dim, generator=generator)
    return x * torch.linspace(0.1, 3, dim) + 5, g, torch.arange(tokens) % 7 == 3


def made(name: str, dim: int, code: str) -> nn.Module:
    changes: dict[str, Any] = {"warmup_updates": 2, "groups": 4} if name == "pn" else {}
    if name.endswith(" in groups"):
        name, changes = name.split()[0], {"groups": 4, "group_scaling": True}
    return random_affine(build_norm(NormConfig(name, kernels=code, **changes), dim))


def results(norm: nn.Module, x: Tensor, mask: Tensor, g: Tensor) -> dict[str, Tensor]:
    done = {what: value for what, value in vars(step(norm, x, mask, g)).items() if value is not None}
    return done | buffers(norm)


@pytest.mark.parametrize("name", NORMS)
def test_errors_are_within_twice_those_of_pytorch(name: str) -> None:
    ours, plain, exact = made(name, 96, "auto"), made(name, 96, "plain"), made(name, 96, "plain").double()
    for seed in range(4):
        x, g, mask = batch(1000, 96, seed)
        got, theirs = results(ours, x, mask, g), results(plain, x, mask, g)
        for what, want in results(exact, x.double(), mask, g.double()).items():
            error, allowed = ((each[what] - want).abs().max() for each in (got, theirs))
            rounding = 8 * torch.finfo(torch.float32).eps * want.abs().max()  # where PyTorch's happens to be none
            assert error <= max(2 * allowed, rounding), f"step {seed}, {what}: {error} against PyTorch's {allowed}"


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", NORMS)
def test_the_number_of_threads_changes_no_sum_by_more_than_its_rounding(name: str) -> None:
    x, g, mask = batch(3000, 96, seed=1)
    of = {}
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        of[count] = results(made(name, 96, "auto"), x, mask, g)
    for count in (2, 3):
        for what, value in of[1].items():
            torch.testing.assert_close(of[count][what], value, rtol=3e-7, atol=1e-7)


def test_a_wider_row_than_the_kernels_take_is_plain() -> None:
    assert backend_for("auto", torch.ones(1, kernels.WIDEST), training=True)
    assert backend_for("auto", torch.ones(1, kernels.WIDEST + 1), training=True) is None
