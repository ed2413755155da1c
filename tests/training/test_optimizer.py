"""Comparison of fused_adam with fairseq's Adam: updates, state, and resuming from each other's checkpoints."""

import io
import math
from typing import Any

import pytest
import torch
from fairseq import optim
from fairseq.optim.adam import Adam
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.testing import assert_close

from normplugins.runs.check import check
from normplugins.runs.compose import compose_config
from normplugins.training.optimizer import FusedAdam
from normplugins.utils.errors import UserError

SHAPES = [(7,), (5, 3), (2, 4, 3), (1,), (33, 9)]
# The position of eps in the equation affects the result only if eps is not small compared with sqrt(v).
OPTIONS = {"lr": 0.01, "betas": (0.9, 0.98), "eps": 1e-2, "weight_decay": 0.1}


def parameters(dtype: torch.dtype, seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in SHAPES]


def give_gradients(params: list[nn.Parameter], update: int, without: tuple[int, ...] = ()) -> None:
    """Set gradients of very different sizes, the same for every optimizer, and none for the parameters ``without``."""
    generator = torch.Generator().manual_seed(1000 + update)
    for index, parameter in enumerate(params):
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 10.0 ** (index - 3)
        parameter.grad = None if index in without else drawn.to(parameter.dtype)


def run(optimizer: Any, params: list[nn.Parameter], updates: range) -> None:
    for update in updates:
        give_gradients(params, update)
        optimizer.step()


def state_of(optimizer: Any) -> dict[str, Any]:
    """The state that a checkpoint holds, after it was saved to a file and loaded."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def build(**changes: Any) -> Any:
    """Return a fairseq optimizer of new parameters, ``fused_adam`` unless another is named."""
    settings = {"_name": "fused_adam", "adam_betas": [0.9, 0.98], "lr": [0.01], "tpu": False}
    return optim.build_optimizer(OmegaConf.create(settings | changes), parameters(torch.float32))


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_three_hundred_updates_equal_fairseqs(dtype, rtol):
    """Parameters and state, with a learning rate that follows a schedule."""
    ours, theirs = parameters(dtype), parameters(dtype)
    fused, stock = FusedAdam(ours, **OPTIONS), Adam(theirs, **OPTIONS)
    for update in range(300):
        for optimizer, params in ((fused, ours), (stock, theirs)):
            give_gradients(params, update)
            optimizer.param_groups[0]["lr"] = 0.01 * min((update + 1) / 20, math.sqrt(20 / (update + 1)))
            optimizer.step()
    # The rounding errors are relative to the 300 steps, not to their sum, which can be smaller.
    assert_close(ours, theirs, rtol=rtol, atol=20 * rtol)
    states = state_of(fused), state_of(stock)
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert_close(states[0]["state"], states[1]["state"], rtol=rtol, atol=rtol)


@settings(deadline=None, max_examples=40)
@given(
    lr=st.floats(1e-6, 1.0),
    betas=st.tuples(st.floats(0.0, 0.999), st.floats(0.0, 0.9999)),
    eps=st.floats(1e-12, 1.0),
    weight_decay=st.floats(0.0, 0.9),
    absent=st.lists(st.sets(st.integers(0, len(SHAPES) - 1)), min_size=1, max_size=6),
    split=st.integers(1, len(SHAPES) - 1),
    seed=st.integers(0, 2**16),
)
def test_any_settings_groups_and_missing_gradients(lr, betas, eps, weight_decay, absent, split, seed):
    """Each parameter has its own update count, and each group its own settings."""
    params = [parameters(torch.float64, seed) for _ in range(2)]
    optimizers = [
        kind(
            [{"params": some[:split]}, {"params": some[split:], "lr": lr / 3, "weight_decay": 0.0}],
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
        )
        for kind, some in zip((FusedAdam, Adam), params, strict=True)
    ]
    for update, without in enumerate(absent):
        for some, optimizer in zip(params, optimizers, strict=True):
            give_gradients(some, seed + update, tuple(without))
            optimizer.step()
    assert_close(params[0], params[1], rtol=1e-11, atol=1e-12)
    assert_close(state_of(optimizers[0])["state"], state_of(optimizers[1])["state"], rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("before", [FusedAdam, Adam])
@pytest.mark.parametrize("after", [FusedAdam, Adam])
def test_resuming_from_a_checkpoint_of_either_optimizer(before, after):
    """Bitwise exact with the same optimizer, within rounding with the other one."""
    params = parameters(torch.float32)
    straight = before(params, **OPTIONS)
    run(straight, params, range(20))
    broken_off = parameters(torch.float32)
    first = before(broken_off, **OPTIONS)
    run(first, broken_off, range(10))
    second = after(broken_off, **OPTIONS)
    second.load_state_dict(state_of(first))
    run(second, broken_off, range(10, 20))
    exact = {"rtol": 0, "atol": 0} if before is after else {"rtol": 1e-6, "atol": 1e-6}
    assert_close(broken_off, params, **exact)
    assert_close(state_of(second), state_of(straight), **exact)


@pytest.mark.parametrize("betas", ["(0.9, 0.98)", "[0.9,0.98]", [0.9, 0.98], [0, "0.98"]])
def test_betas_can_be_a_list_or_a_string(betas):
    built = build(adam_betas=betas)
    assert type(built.optimizer) is FusedAdam
    first = 0 if betas == [0, "0.98"] else 0.9
    assert built.param_groups[0]["betas"] == (first, 0.98)
    built.set_lr(0.5)
    assert (built.get_lr(), built.supports_flat_params) == (0.5, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"adam_betas": "0.9"},
        {"adam_betas": "(0.9, 1.0)"},
        {"adam_betas": "print(1)"},
        {"adam_betas": [0.9]},
        {"use_old_adam": True},
        {"fp16_adam_stats": True},
    ],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        build(**changes)


def test_settings_that_adam_cannot_train_with_are_refused_before_a_run():
    accepted = ["hardware=cpu", "optimizer=adam", "optimizer.use_old_adam=true"]
    check(compose_config("demo", accepted))
    with pytest.raises(UserError, match=r"optimizer\.fp16_adam_stats=true"):
        check(compose_config("demo", [*accepted, "optimizer.fp16_adam_stats=true"]))


def scaled(value: Tensor | float) -> list[Tensor]:
    optimizer = build()
    give_gradients(optimizer.params, 0, without=(2,))
    optimizer.multiply_grads(value)
    return [parameter.grad for parameter in optimizer.params if parameter.grad is not None]


def test_gradients_are_scaled_by_a_number_or_a_tensor():
    assert_close(scaled(0.5), [gradient * 0.5 for gradient in scaled(1.0)])
    assert_close(scaled(torch.tensor(0.5)), scaled(0.5))


def test_class_name_equals_fairseqs_for_checkpoints():
    """fairseq identifies optimizers in checkpoints by their class name."""
    built = [build(_name=name) for name in ("adam", "fused_adam")]
    assert len({type(optimizer).__name__ for optimizer in built}) == 1
    assert len({type(optimizer) for optimizer in built}) == 2
