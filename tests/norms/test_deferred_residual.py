"""DeferredResidual where no kernel computes the sum, so that PyTorch's operations do."""

import pytest
import torch
from torch.nn import functional as F

from normplugins.norms import NormConfig, build_norm
from normplugins.norms.backends.dispatch import fuses_residual
from normplugins.norms.deferred_residual import DeferredResidual, materialize
from tests.helpers.norms import BATCH_NORMS, TOKEN_NORMS

P = 0.3


def test_the_sum_is_computed_once_and_the_update_is_released() -> None:
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
def test_on_a_cpu_a_norm_normalizes_the_computed_sum(name: str, kernels: str) -> None:
    ours, theirs = (build_norm(NormConfig(name, groups=2, kernels="plain"), 8) for _ in range(2))
    ours.kernels = kernels
    residual, update = torch.randn(2, 5, 3, 8)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    total = DeferredResidual(residual, update, 0.0)
    assert torch.equal(ours(total, mask), theirs(residual + update, mask))
    assert torch.equal(total.value, residual + update)


@pytest.mark.parametrize("name", [*TOKEN_NORMS, *BATCH_NORMS, "instance"])
def test_on_a_cpu_no_norm_fuses_the_sum(name: str) -> None:
    norm = build_norm(NormConfig(name, groups=2), 8)
    assert not fuses_residual(norm, torch.randn(5, 3, 8))
