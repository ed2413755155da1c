"""Properties of every norm: gradients, padding, dtypes, checkpointing, evaluation, no waiting for the device."""

import copy
import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from normplugins.norms import NormConfig, build_norm, end_update, updates_in_backward
from tests.helpers.data_parallel import DIM, Block
from tests.helpers.norms import (
    BATCH_NORMS,
    NORMS,
    PADDING_FREE,
    SHORT,
    TOKEN_NORMS,
    buffers,
    padding,
    random_affine,
    step,
)


def small(name: str, **changes: Any) -> nn.Module:
    """A norm of 8 channels whose warmup ends within a few updates, with weights away from 1."""
    settings = {"groups": 2} | SHORT.get(name, {}) | changes
    return random_affine(build_norm(NormConfig(name, **settings), 8))


@pytest.mark.slow
@pytest.mark.parametrize("name", PADDING_FREE)
@settings(deadline=None, max_examples=12)
@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any),
    extra=st.integers(0, 3),
    junk=st.sampled_from([0.0, 1e30, float("inf"), float("-inf"), float("nan")]),
    left=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_padding_changes_nothing(name: str, lengths: list[int], extra: int, junk: float, left: bool, seed: int) -> None:
    """The same tokens, bare as (N, C) and padded as (T, B, C): same outputs, gradients and statistics."""
    torch.manual_seed(seed)
    bare, padded = small(name).double(), small(name).double()
    mask = padding(lengths, extra)
    mask = mask.flip(1) if left else mask
    pads = mask.t()
    for _ in range(3):
        x = torch.randn(*pads.shape, 8, dtype=torch.float64)
        g = torch.randn_like(x)
        filled = torch.where(pads.unsqueeze(-1), junk, x)
        want, got = step(bare, x[~pads], None, g[~pads]), step(padded, filled, mask, g)
        assert_close((got.y[~pads], got.gx[~pads], got.gw, got.gb), (want.y, want.gx, want.gw, want.gb))
        assert not got.gx[pads].any()
        assert got.y.isfinite().all()
        assert_close(buffers(padded), buffers(bare))
    assert_close(padded.eval()(filled, mask)[~pads], bare.eval()(x[~pads]))


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_the_forwards_statistics_never_see_padding(name: str) -> None:
    """Values in padding affect neither real tokens nor running statistics, also in ``pn`` and ``bn_released``."""
    one, other, mask = small(name), small(name), padding([3, 1, 4])
    x = torch.randn(4, 3, 8)
    poisoned = torch.where(mask.t().unsqueeze(-1), float("nan"), x)
    for _ in range(3):
        real = ~mask.t()
        assert torch.equal(one(x, mask)[real], other(poisoned, mask)[real])
        assert_close(buffers(one), buffers(other), rtol=0, atol=0)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("per_update", [True, False])
def test_a_batch_of_padding_changes_no_statistic(name: str, training: bool, per_update: bool) -> None:
    norm = small(name, per_update=per_update)
    step(norm, torch.randn(4, 3, 8), padding([3, 1, 4]), torch.randn(4, 3, 8))
    end_update(norm)
    norm.train(training)
    before = buffers(norm)
    done = step(norm, torch.randn(4, 3, 8), torch.ones(3, 4, dtype=torch.bool), torch.zeros(4, 3, 8))
    end_update(norm)
    for made in (done.y, done.gx, done.gw, done.gb):
        assert made is None or made.isfinite().all()
    after = buffers(norm)
    if name == "pn":  # as released, its backward counts padding
        del before["ema_gz"], after["ema_gz"]
    assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("shape", [(0, 3, 8), (4, 0, 8)])
@pytest.mark.parametrize("per_update", [True, False])
def test_an_empty_batch_changes_no_statistic(name: str, shape: tuple[int, int, int], per_update: bool) -> None:
    norm = small(name, per_update=per_update)
    step(norm, torch.randn(4, 3, 8), None, torch.randn(4, 3, 8))
    end_update(norm)
    before = buffers(norm)
    for training in (True, False):
        done = step(norm.train(training), torch.empty(shape), torch.empty(shape[1::-1]).bool(), torch.empty(shape))
        end_update(norm)
        assert done.y.shape == done.gx.shape == shape
        assert all(made is None or not made.any() for made in (done.gw, done.gb))
    assert_close(buffers(norm), before, rtol=0, atol=0)


SCALED = {"group_scaling": True}
IN_WARMUP = {"warmup_updates": 10_000}  # after its warmup, the backward of renorm takes its corrections as constants


@pytest.mark.parametrize(
    ("name", "changes", "training"),
    [
        (name, changes, training)
        for name, changes in [
            *((name, IN_WARMUP) for name in NORMS),
            ("bn", SCALED),
            ("pnv", SCALED),
            ("rms", {"groups": 4}),
        ]
        for training in (True, False)
        if not (training and updates_in_backward(name))  # their backward is not the gradient of their forward
    ],
)
def test_the_gradient_is_exact(name: str, changes: dict[str, Any], training: bool) -> None:
    norm, mask = small(name, **changes).double().train(training), padding([3, 1])
    parameters = dict(norm.named_parameters())

    def forward(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(norm, dict(zip(parameters, values, strict=True)), (x, mask))

    x = torch.randn(3, 2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(forward, (x, *parameters.values()))


@pytest.mark.parametrize("name", TOKEN_NORMS)
def test_token_norms_do_not_depend_on_other_tokens(name: str) -> None:
    norm, mask = small(name).double(), padding([3, 1, 4])
    x, g = torch.randn(2, 4, 3, 8, dtype=torch.float64)
    whole = step(norm, x, mask, g)
    for t, b in ((0, 0), (2, 1), (3, 2)):
        alone = step(norm, x[t : t + 1, b : b + 1], None, g[t : t + 1, b : b + 1])
        assert_close((alone.y[0, 0], alone.gx[0, 0]), (whole.y[t, b], whole.gx[t, b]))


@pytest.mark.parametrize("name", [*TOKEN_NORMS, "instance"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weights", ["low", "float32"])
def test_norms_without_buffers_compute_in_float32_too(name: str, dtype: torch.dtype, weights: str) -> None:
    full, low = small(name), small(name)
    low = low.to(dtype) if weights == "low" else low
    for p in (*full.parameters(), *low.parameters()):
        p.data = p.data.to(dtype).to(p.dtype)
    x, g = torch.randn(2, 4, 3, 8).to(dtype)
    x = x.clamp(-3, 3) * (1e4 if name != "none" else 1)  # float16 ends at 65,504: the squares are out of its range
    a, b = step(full, x.float(), padding([3, 1, 4]), g.float()), step(low, x, padding([3, 1, 4]), g)
    assert b.y.dtype == b.gx.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps
    assert_close(b.y.float(), a.y, rtol=tolerance, atol=tolerance)
    assert_close(b.gx.float(), a.gx, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in NORMS if getattr(build_norm(name, 8), "weight", None) is not None])
def test_a_float32_weight_is_not_rounded_to_a_bfloat16_input(name: str) -> None:
    norm, x = small(name).eval(), torch.randn(16, 4, 8).bfloat16()
    norm.weight.data.fill_(1.0)
    before = norm(x)
    norm.weight.data.fill_(1.003)  # 1 in bfloat16
    assert not torch.equal(norm(x), before)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [("bn", "momentum", 1.0), ("pnv", "alpha_fwd", 0.0), ("pn_alg2", "alpha_fwd", 0.0), ("un", "alpha_fwd", 0.0)],
)
def test_a_setting_that_is_changed_later_is_read(name: str, setting: str, value: float) -> None:
    norm, x = build_norm(name, 8), torch.randn(4, 3, 8) + 1
    setattr(norm, setting, value)
    norm(x)
    moment = x.flatten(0, 1).mean(0) if name == "bn" else x.flatten(0, 1).square().mean(0)
    assert_close(norm.running_mean if name == "bn" else norm.running_phi, moment)
    assert f"{setting}={value}" in repr(norm)


@pytest.mark.parametrize("name", BATCH_NORMS)
@pytest.mark.parametrize("per_update", [True, False])
def test_evaluation_changes_no_buffer_and_sees_no_other_token(name: str, per_update: bool) -> None:
    norm = small(name, per_update=per_update)
    norm(torch.randn(4, 3, 8))
    end_update(norm)
    norm.eval()
    before, x = buffers(norm), torch.randn(4, 3, 8)
    done = step(norm, x, None, torch.randn(4, 3, 8))
    end_update(norm)
    assert_close(buffers(norm), before, rtol=0, atol=0)
    assert_close(norm(x[:1, 1:2]).detach(), done.y[:1, 1:2])


@pytest.mark.parametrize("name", BATCH_NORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weights", ["low", "float32"])
def test_statistics_stay_in_float32(name: str, dtype: torch.dtype, weights: str) -> None:
    full, low = small(name), small(name)
    full(torch.randn(6, 8) + 0.1)  # statistics that a low precision could not hold
    low.load_state_dict(full.state_dict())
    low = low.to(dtype) if weights == "low" else low
    assert_close(buffers(low), buffers(full), rtol=0, atol=0)
    for p, q in zip(full.parameters(), low.parameters(), strict=True):
        assert q.dtype == (dtype if weights == "low" else torch.float32)
        p.data.copy_(q)
    for scale in (1, 1, 1e4, 1e4):  # float16 ends at 65,504: the squares are out of its range
        x, g = (torch.randn(2, 4, 3, 8).clamp(-3, 3) * torch.tensor([scale, 1]).view(2, 1, 1, 1)).to(dtype)
        a, b = step(full, x.float(), padding([3, 1, 4]), g.float()), step(low, x, padding([3, 1, 4]), g)
        assert b.y.dtype == b.gx.dtype == dtype
        assert_close((b.y, b.gx), (a.y.to(dtype), a.gx.to(dtype)))
        assert_close(buffers(low), buffers(full))
        assert all(v.dtype == torch.float32 for k, v in buffers(low).items() if k != "num_updates")
    assert low.eval()(x).dtype == dtype


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_double_and_back_keeps_float32_statistics(name: str) -> None:
    norm = small(name).double()
    assert all(b.dtype == torch.float64 for k, b in norm.named_buffers() if k != "num_updates")
    assert all(b.dtype == torch.float32 for k, b in norm.bfloat16().named_buffers() if k != "num_updates")


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_is_bitwise_the_same(name: str, reentrant: bool) -> None:
    config = NormConfig(name, **({"groups": 2} | SHORT.get(name, {})))
    plain, saving = (random_affine(Block(config)) for _ in range(2))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (plain, saving)]
    for _ in range(5):
        mask, made = padding([3, 1, 4]), []
        x0, g = torch.randn(2, 4, 3, DIM)
        for model, optimizer in zip((plain, saving), optimizers, strict=True):
            optimizer.zero_grad()
            x = x0.clone().requires_grad_()
            y = model(x, mask) if model is plain else checkpoint(model, x, mask, use_reentrant=reentrant)
            y.backward(g)
            optimizer.step()
            made.append([y.detach(), x.grad, *(p.grad for p in model.parameters())])
        assert_close(made[1], made[0], rtol=0, atol=0)
        assert_close(dict(saving.named_buffers()), dict(plain.named_buffers()), rtol=0, atol=0)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("per_update", [True, False])
def test_the_host_reads_nothing_from_the_device(name: str, training: bool, per_update: bool) -> None:
    """Meta tensors have no values: ``.item()``, ``.any()`` in an ``if`` and the like would raise."""
    norm = small(name, per_update=per_update).to("meta").train(training)
    for _ in range(2):
        x = torch.empty(4, 3, 8, device="meta", requires_grad=True)
        y = norm(x, torch.empty(3, 4, dtype=torch.bool, device="meta"))
        y.backward(torch.empty_like(y))
        assert x.grad is not None
    end_update(norm)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NORMS)
def test_a_gpu_agrees_with_the_cpu_without_synchronization(name: str) -> None:
    host, device = small(name), small(name).cuda()
    x, g, mask = torch.randn(4, 3, 8), torch.randn(4, 3, 8), padding([3, 1, 4])
    on_device = [t.cuda() for t in (x, mask, g)]
    for _ in range(3):
        want = step(host, x, mask, g)
        torch.cuda.set_sync_debug_mode("error")
        try:
            got = step(device, *on_device)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert_close((got.y.cpu(), got.gx.cpu()), (want.y, want.gx), rtol=1e-4, atol=1e-5)
        assert_close({k: b.cpu() for k, b in buffers(device).items()}, buffers(host), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_state_survives_saving_and_copying(name: str) -> None:
    norm = small(name)
    for _ in range(3):
        step(norm, torch.randn(4, 3, 8), padding([3, 1, 4]), torch.randn(4, 3, 8))
    file = io.BytesIO()
    torch.save(norm.state_dict(), file)
    file.seek(0)
    loaded = small(name)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    x, g = torch.randn(2, 4, 3, 8)
    for other in (loaded, copy.deepcopy(norm)):
        twin = copy.deepcopy(norm)
        assert_close(vars(step(other, x, None, g)), vars(step(twin, x, None, g)), rtol=0, atol=0)
        assert_close(buffers(other), buffers(twin), rtol=0, atol=0)
