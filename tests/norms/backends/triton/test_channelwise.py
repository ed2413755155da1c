"""Every norm on the kernels against plain PyTorch, in float64 and in low precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normplugins.norms import NormConfig, build_norm
from tests.helpers.norms import GOLDEN, SWITCHES, replay, step
from tests.helpers.triton import DEVICE, assert_same, batch, kernels, plain, results

NORMS = ("pn", "pn_alg2", "pnv", "bn", "rms")
GROUPED = ("pnv", "pn_alg2", "rms")


def at(name: str, groups: int, warmup: int) -> dict[str, object]:
    return {"groups": groups, "warmup_updates": warmup} if name == "pn" else {}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, at(name, groups=4, warmup=1)) for name in NORMS),
        *((name, {"groups": 4, "group_scaling": True}) for name in GROUPED),
    ],
    ids=str,
)
def test_errors_are_within_twice_those_of_pytorch(name: str, changes: dict[str, object], dtype: torch.dtype) -> None:
    """Against float64, in the warmup, after it, and at evaluation; weights in float32, as in mixed precision."""
    assert_as_exact(name, dtype, (15, 3, 96), changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dim"), [*((name, dim) for name in NORMS for dim in (1, 257)), ("rms", 8192), ("pn", 8192)]
)
def test_any_number_of_channels(name: str, dim: int) -> None:
    assert_as_exact(name, torch.bfloat16, (3, 2, dim), at(name, groups=1, warmup=1), steps=2)


def assert_as_exact(
    name: str, dtype: torch.dtype, shape: tuple[int, int, int], changes: dict[str, object], steps: int = 3
) -> None:
    ours, low, exact = (make(name, shape[-1], **changes) for make in (kernels, plain, plain))
    exact.double()
    for s in range(steps):
        for norm in (ours, low, exact):
            norm.train(s < steps - 1)
        x, g, mask = batch(*shape, dtype, seed=s)
        got, theirs = (results(step(norm, x, mask, g), norm) for norm in (ours, low))
        want = results(step(exact, x.double(), mask, g.double()), exact)
        for what, value in want.items():
            assert got[what].dtype == theirs[what].dtype
            error, allowed = ((each[what] - value).abs().max() for each in (got, theirs))
            rounding = 8 * torch.finfo(torch.float32).eps * value.abs().max()  # sums in float32, in another order
            assert error <= max(2 * allowed, rounding), f"step {s}, {what}: {error} against PyTorch's {allowed}"


@pytest.mark.slow
def test_the_released_code_is_reproduced() -> None:
    """Vectors with padding and a warmup, to 1e-9, as the plain norm does."""
    vectors = np.load(GOLDEN / "power_released_0.npz")
    meta = {key: float(vectors[f"meta_{key}"]) for key in ("eps", "alpha_fwd", "alpha_bkw")}
    groups, warmup = (int(vectors[f"meta_{key}"]) for key in ("groups", "warmup_iters"))
    norm = kernels("pn", len(vectors["weight"]), **meta, groups=groups, warmup_updates=warmup)
    replay(norm, vectors, ("running_phi", "ema_gz"))
    assert norm.num_updates.item() == len(vectors["x"])


def assert_same_steps(name: str, shape: tuple[int, int, int], changes: dict[str, object], padded: bool = True) -> None:
    """Three steps and an evaluation, the first step without padding."""
    ours, reference = (make(name, shape[-1], **changes).double() for make in (kernels, plain))
    for s in range(3):
        x, g, mask = batch(*shape, seed=s)
        assert_same(ours, reference, x, mask if padded and s else None, g)
    assert_same(ours.eval(), reference.eval(), x, mask if padded else None, g)


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(
    on=st.sets(st.sampled_from(SWITCHES)),
    warmup=st.sampled_from([0, 2]),
    width=st.integers(1, 6),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 5)),
    groups=st.integers(1, 3),
    per_update=st.booleans(),
)
def test_combinations_of_the_switches_of_pn(
    on: set[str], warmup: int, width: int, shape: tuple[int, int], groups: int, per_update: bool
) -> None:
    changes: dict[str, object] = {switch: switch in on for switch in SWITCHES}
    changes |= {"warmup_updates": warmup, "groups": groups, "per_update": per_update}
    assert_same_steps("pn", (*shape, groups * width), changes)


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(
    name=st.sampled_from(GROUPED),
    width=st.integers(1, 6),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 5)),
    groups=st.integers(1, 3),
    per_update=st.booleans(),
)
def test_channel_groups_of_the_other_norms(
    name: str, width: int, shape: tuple[int, int], groups: int, per_update: bool
) -> None:
    assert_same_steps(
        name, (*shape, groups * width), {"groups": groups, "group_scaling": True, "per_update": per_update}
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(
    name=st.sampled_from(["pnv", "bn", "rms"]),
    shape=st.tuples(st.integers(1, 80), st.integers(1, 4), st.integers(1, 70)),
    padded=st.booleans(),
)
def test_batch_statistics_and_their_exact_backward(name: str, shape: tuple[int, int, int], padded: bool) -> None:
    assert_same_steps(name, shape, {}, padded)


@pytest.mark.slow
@pytest.mark.parametrize("scaling", [False, True])
@pytest.mark.parametrize("name", ["pn_alg2", "pnv", "bn"])
def test_values_in_padding_have_no_effect(name: str, scaling: bool) -> None:
    x, g, mask = batch(7, 4, 40)
    clean, dirty = (kernels(name, 40, group_scaling=scaling).double() for _ in range(2))
    for mode in (True, False):
        want = results(step(clean.train(mode), x, mask, g), clean)
        padding = mask.t().unsqueeze(-1)
        got = results(
            step(dirty.train(mode), x.masked_fill(padding, torch.nan), mask, g.masked_fill(padding, torch.nan)), dirty
        )
        for what, value in want.items():
            assert torch.equal(got[what], value), what
        assert not got["y"][mask.t()].any()
        assert not got["dL/dx"][mask.t()].any()


def test_junk_in_padding_does_not_reach_psi_where_padding_counts_in_the_backward() -> None:
    x, _, mask = batch(7, 4, 40)
    norm, reference = kernels("pn", 40).double(), plain("pn", 40).double()
    norm(x.masked_fill(mask.t().unsqueeze(-1), float("nan")), mask)
    reference(x, mask)
    torch.testing.assert_close(norm.running_phi, reference.running_phi)


@pytest.mark.parametrize("name", NORMS)
def test_batches_without_a_token_change_nothing(name: str) -> None:
    norm = kernels(name, 8, **at(name, groups=2, warmup=2))
    before = {key: value.clone() for key, value in norm.named_buffers()}
    for x, mask in ((torch.randn(4, 8), torch.ones(4)), (torch.empty(4, 0, 8), torch.empty(0, 4))):
        x = x.to(DEVICE).requires_grad_()
        y = norm(x, mask.bool().to(DEVICE))
        y.sum().backward()
        assert y.shape == x.shape
        assert x.grad is not None
        assert x.grad.isfinite().all()
    for key, value in before.items():
        if key != "ema_gz":  # with padding counted in the backward, as released, nu does move
            assert torch.equal(norm.get_buffer(key), value), key


@pytest.mark.parametrize("name", NORMS)
def test_any_layout_of_x_and_gradients(name: str) -> None:
    """(N, C) or (T, B, C), strided x, an expanded gradient and a transposed mask give the same results."""
    x, _, mask = batch(6, 3, 12)
    g = torch.ones(1, device=DEVICE, dtype=x.dtype).expand(x.shape)
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    norms: list[nn.Module] = [kernels(name, 12, **at(name, groups=3, warmup=0)).double() for _ in range(3)]
    a = step(norms[0], x, mask, g.contiguous())
    b = step(norms[1], x.flatten(0, 1), mask.t().flatten(), g.flatten(0, 1))
    norms[2].zero_grad()
    leaf = strided.detach().requires_grad_()
    y = norms[2](leaf, mask.t().contiguous().t())
    y.backward(g)
    assert torch.equal(a.y, b.y.view_as(a.y))
    assert torch.equal(a.y, y)
    assert torch.equal(a.gx, b.gx.view_as(a.gx))
    assert leaf.grad is not None
    assert torch.equal(a.gx, leaf.grad)


def test_weights_in_low_precision() -> None:
    x, g, mask = batch(9, 4, 40, torch.bfloat16)
    for name in NORMS:
        ours, reference = (make(name, 40).bfloat16() for make in (kernels, plain))
        got, want = step(ours, x, mask, g), step(reference, x, mask, g)
        assert got.gw is not None
        assert want.gw is not None
        assert got.gw.dtype == torch.bfloat16
        torch.testing.assert_close(got.y, want.y, rtol=2e-2, atol=2e-2)
        torch.testing.assert_close(got.gw, want.gw, rtol=2e-2, atol=2e-1)


def test_variance_of_tokens_far_from_zero() -> None:
    """The mean is 1000 standard deviations, so that E x^2 - (E x)^2 would lose all digits."""
    x = 1000 + torch.randn(70, 3, 5, generator=torch.Generator().manual_seed(0))
    norm = kernels("bn", 5, momentum=1.0)
    norm(x.to(DEVICE))
    torch.testing.assert_close(norm.running_var.cpu(), x.double().flatten(0, 1).var(0).float(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["pn", "pn_alg2"])
def test_an_infinite_gradient_leaves_nu(name: str) -> None:
    norm = build_norm(NormConfig(name, groups=1, kernels="triton"), 8).to(DEVICE)
    x = torch.randn(5, 3, 8, device=DEVICE, requires_grad=True)
    norm(x).backward(torch.randn_like(x))
    kept = norm.ema_gz.clone()
    assert kept.any()
    norm(x).backward(torch.full_like(x, torch.inf))
    assert torch.equal(norm.ema_gz, kept)
    g = torch.ones_like(x)
    g[0, 0, 5] = torch.inf
    norm(x).backward(g)
    assert torch.equal(norm.ema_gz == kept, torch.arange(8, device=DEVICE) == 5)
