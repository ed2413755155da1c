"""Half precision: what fairseq's wrappers do, in fewer kernels, and a run that goes on to the bit."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from normplugins import compat  # noqa: F401  (first: it lets fairseq import)

# isort: split
from fairseq import optim

from normplugins.training.trainer import FP16Optimizer
from tests.helpers.optimizers import Calls, config, give_gradients, parameters, state_of

DTYPES = [torch.bfloat16, torch.float16]
EXACT = {"rtol": 0, "atol": 0}


def of_dtype(dtype: torch.dtype, **changes: Any) -> Any:
    built = config(**changes)
    built.common.bf16 = dtype is torch.bfloat16
    return built


def update(wrapped: Any, params: list[nn.Parameter], number: int, without: tuple[int, ...] = ()) -> None:
    """What fairseq's trainer does with the gradients of a batch."""
    wrapped.zero_grad()
    give_gradients(params, number, without)
    wrapped._needs_sync = True  # as its backward() says
    wrapped.multiply_grads(1 / 3)
    wrapped.clip_grad_norm(1.0)
    wrapped.step()


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_computes_what_fairseqs_computes(dtype):
    """With the same optimizer inside, to the bit: parameters without a gradient too."""
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
def test_with_the_fused_adam_as_with_fairseqs(wrapper, dtype):
    """Within a rounding of the parameters."""
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
def test_a_run_goes_on_to_the_bit(wrapper, dtype):
    """In a new process, that is: from the parameters and the state of a checkpoint."""
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
def test_either_reads_what_the_other_wrote(writer, reader):
    params = parameters(torch.bfloat16)
    first, second = (kind.build_optimizer(of_dtype(torch.bfloat16), params) for kind in (writer, reader))
    update(first, params, 0)
    second.load_state_dict(state_of(first))
    state = second.fp32_optimizer.state_dict()
    assert_close(state, first.fp32_optimizer.state_dict(), **EXACT)
    assert writer.__name__ == reader.__name__


def test_an_update_is_a_few_kernels_however_many_parameters_there_are():
    """Beside the gradient norm, which fairseq takes one by one."""
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
