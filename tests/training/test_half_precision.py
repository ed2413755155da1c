"""Half precision: the results of fairseq's optimizers with fewer kernels, and bitwise resuming."""

from typing import Any

import pytest
import torch
from fairseq import optim
from torch import nn
from torch.testing import assert_close

from normplugins.training.trainer import FP16Optimizer
from tests.helpers.optimizers import Calls, config, give_gradients, parameters, state_of

DTYPES = [torch.bfloat16, torch.float16]
EXACT = {"rtol": 0, "atol": 0}


def of_dtype(dtype: torch.dtype, **changes: Any) -> Any:
    built = config(**changes)
    built.common.bf16 = dtype is torch.bfloat16
    return built


def update(wrapped: Any, params: list[nn.Parameter], number: int, without: tuple[int, ...] = ()) -> None:
    """Make an update in the way of fairseq's trainer."""
    wrapped.zero_grad()
    give_gradients(params, number, without)
    wrapped._needs_sync = True  # as its backward() says
    wrapped.multiply_grads(1 / 3)
    wrapped.clip_grad_norm(1.0)
    wrapped.step()


@pytest.mark.parametrize("dtype", DTYPES)
def test_updates_equal_fairseqs_bitwise(dtype):
    """With the same wrapped optimizer, and also for parameters without a gradient."""
    trained = []
    for wrapper in (FP16Optimizer, optim.FP16Optimizer):
        params = parameters(dtype)
        wrapped = wrapper.build_optimizer(of_dtype(dtype), params)
        for number in range(6):
            update(wrapped, params, number, without=(number % 3,))
        trained.append((params, wrapped.fp32_params, wrapped.fp32_optimizer.state_dict()))
    assert_close(*trained, **EXACT)


@pytest.mark.parametrize("wrapper", [FP16Optimizer, optim.MemoryEfficientFP16Optimizer])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_adam_equals_fairseqs_adam(wrapper, dtype):
    """Within one rounding of the parameters."""
    trained = []
    for name in ("fused_adam", "adam"):
        params = parameters(dtype)
        wrapped = wrapper.build_optimizer(of_dtype(dtype, _name=name), params)
        for number in range(6):
            update(wrapped, params, number)
        trained.append(params)
    assert_close(*trained, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("wrapper", [FP16Optimizer, optim.MemoryEfficientFP16Optimizer])
@pytest.mark.parametrize("dtype", DTYPES)
def test_resuming_is_bitwise_exact(wrapper, dtype):
    """As in a new process: from the parameters and the optimizer state of a checkpoint."""
    straight, params = None, parameters(dtype)
    straight = wrapper.build_optimizer(of_dtype(dtype), params)
    broken_off = parameters(dtype)
    first = wrapper.build_optimizer(of_dtype(dtype), broken_off)
    for number in range(3):
        update(straight, params, number)
        update(first, broken_off, number)
    again = [nn.Parameter(parameter.detach().clone()) for parameter in broken_off]
    second = wrapper.build_optimizer(of_dtype(dtype), again)
    second.load_state_dict(state_of(first))
    for number in range(3, 6):
        update(straight, params, number)
        update(second, again, number)
    assert_close(again, params, **EXACT)
    assert_close(state_of(second), state_of(straight), **EXACT)


@pytest.mark.parametrize("writer", [FP16Optimizer, optim.FP16Optimizer])
@pytest.mark.parametrize("reader", [FP16Optimizer, optim.FP16Optimizer])
def test_each_optimizer_loads_the_state_of_the_other(writer, reader):
    params = parameters(torch.bfloat16)
    first, second = (kind.build_optimizer(of_dtype(torch.bfloat16), params) for kind in (writer, reader))
    update(first, params, 0)
    second.load_state_dict(state_of(first))
    state = second.fp32_optimizer.state_dict()
    assert_close(state, first.fp32_optimizer.state_dict(), **EXACT)
    assert writer.__name__ == reader.__name__


def test_the_number_of_kernels_does_not_depend_on_the_number_of_parameters():
    """Without the gradient norm, which fairseq computes for each parameter."""
    counts = []
    for several in (1, 3):
        params = [parameter for seed in range(several) for parameter in parameters(torch.bfloat16, seed)]
        wrapped = FP16Optimizer.build_optimizer(of_dtype(torch.bfloat16), params)
        update(wrapped, params, 0)
        give_gradients(params, 1)
        with Calls() as calls:
            wrapped._needs_sync = True
            wrapped.multiply_grads(0.5)
            wrapped.step()
            wrapped.zero_grad()
        counts.append(sum(count for name, count in calls.counts.items() if "detach" not in name))
    assert counts[0] == counts[1] <= 6
