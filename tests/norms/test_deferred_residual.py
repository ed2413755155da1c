"""A residual sum where no kernel adds it up: what PyTorch's operations give."""

import pytest
import torch
from torch.nn import functional as F

from normplugins.norms import NormConfig, build_norm
from normplugins.norms.backends.dispatch import fuses_residual
from normplugins.norms.deferred_residual import DeferredResidual, materialize
from tests.helpers.norms import BATCH_NORMS, TOKEN_NORMS

P = 0.3


def test_it_is_added_up_once_and_lets_go_of_its_update() -> None:
    residual, update = torch.randn(2, 5, 3)
    torch.manual_seed(0)
    want = residual + F.dropout(update, P)
    torch.manual_seed(0)
    total = DeferredResidual(residual, update, P)
    assert torch.equal(total.value, want)
    assert total.value is materialize(total)
    assert total.update is None
    assert materialize(residual) is residual


@pytest.mark.parametrize("name", ["pn", "pnv", "bn", "bn_released", "rms"])
@pytest.mark.parametrize("kernels", ["auto", "plain"])
def test_a_norm_on_a_cpu_takes_a_sum_as_its_value(name: str, kernels: str) -> None:
    ours, theirs = (build_norm(NormConfig(name, groups=2, kernels="plain"), 8) for _ in range(2))
    ours.kernels = kernels
    residual, update = torch.randn(2, 5, 3, 8)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    total = DeferredResidual(residual, update, 0.0)
    assert torch.equal(ours(total, mask), theirs(residual + update, mask))
    assert torch.equal(total.value, residual + update)


@pytest.mark.parametrize("name", [*TOKEN_NORMS, *BATCH_NORMS, "instance"])
def test_on_a_cpu_no_norm_adds_up(name: str) -> None:
    norm = build_norm(NormConfig(name, groups=2), 8)
    assert not fuses_residual(norm, torch.randn(5, 3, 8))
