"""Running statistics: beside plain references, with micro-batches, re-estimation, and names."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from normplugins.norms import (
    NormConfig,
    build_norm,
    end_update,
    has_statistics,
    reestimate,
    running_statistics,
    updates_in_backward,
)
from normplugins.norms.moving_window import WindowNorm
from tests.helpers import reference
from tests.helpers.norms import BATCH_NORMS, NORMS, buffers, random_affine, step

DIM = 8


def make(name: str, **changes: object) -> nn.Module:
    config = NormConfig(**({"name": name, "groups": 2, "per_update": True} | changes))  # type: ignore[arg-type]
    return random_affine(build_norm(config, DIM).double())


def tokens(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x and dL/dy (N, C) about a mean that is not 0, and which of them are padding (N,)."""
    generator = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(count, DIM, generator=generator, dtype=torch.float64) for _ in range(2))
    return 2 * x + 1, g, torch.rand(count, generator=generator) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", BATCH_NORMS)
@settings(deadline=None, max_examples=12)
@given(
    cuts=st.lists(st.lists(st.integers(0, 12), max_size=4), min_size=1, max_size=4),
    warmup=st.sampled_from([0, 2, 100]),
    seed=st.integers(0, 2**16),
)
def test_micro_batches_give_the_same_statistics_as_one_batch(
    name: str, cuts: list[list[int]], warmup: int, seed: int
) -> None:
    """Micro-batches have any size, and some are empty or only padding."""
    changes = {"warmup_updates": warmup} if NormConfig(name).resolve().warmup_updates else {}
    one, many = make(name, per_update=False, **changes), make(name, **changes)
    for update, cut in enumerate(cuts):
        x, g, padding = tokens(12, seed + update)
        step(one, x, padding, g)
        for micro_batch in torch.arange(12).tensor_split(sorted(cut)):
            before = buffers(many)
            step(many, x[micro_batch], padding[micro_batch], g[micro_batch])
            assert_close(buffers(many), before, rtol=0, atol=0)
        end_update(many)
        if (name == "pn" and update < warmup) or isinstance(one, WindowNorm):
            # The quantities of the backward are means of x^, which each micro-batch's own mean square divides.
            many.load_state_dict({**many.state_dict(), **{k: v for k, v in buffers(one).items() if k.endswith("gz")}})
        assert_close(buffers(many), buffers(one), rtol=0, atol=1e-10)


REFERENCES: dict[str, tuple[Any, dict[str, float], dict[str, float]]] = {  # settings of the norm and of its reference
    "bn": (reference.BatchNorm, {}, {}),
    "pnv": (reference.PowerNormV, {"alpha_fwd": 0.8}, {"alpha": 0.8}),
    "weight": (reference.MeanOnlyBatchNorm, {"momentum": 0.3}, {"momentum": 0.3}),
    "pn_alg2": (
        reference.PowerNormAlgorithm2,
        {"alpha_fwd": 0.7, "alpha_bkw": 0.95},
        {"alpha": 0.7, "alpha_backward": 0.95},
    ),
}
BUFFERS = {"running_mean": "mean", "running_var": "var", "running_phi": "phi", "ema_gz": "nu"}


def assert_statistics_of(norm: nn.Module, plain: Any) -> None:
    for ours, theirs in BUFFERS.items():
        if hasattr(norm, ours):
            np.testing.assert_allclose(norm.get_buffer(ours).numpy(), getattr(plain, theirs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_batch_is_one_step_of_the_reference_on_its_real_tokens(name: str) -> None:
    kind, ours, theirs = REFERENCES[name]
    norm, plain = make(name, per_update=False, **ours), kind(DIM, **theirs)
    affine = [p.detach().numpy() for p in norm.parameters()]
    for seed in range(6):
        x, g, padding = tokens(12, seed)
        real, done = ~padding, step(norm, x, padding, g)
        if name == "pn_alg2":  # its gradients are not those of its forward
            found = (done.y[real], done.gx[real], done.gw, done.gb)
            wanted = plain.train(x[real].numpy(), *affine, g[real].numpy())
        else:
            found, wanted = (done.y[real],), (plain.train(x[real].numpy(), *affine),)
        for got, want in zip(found, wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)
        assert_statistics_of(norm, plain)
    y = norm.eval()(x, padding).detach()
    np.testing.assert_allclose(y[real], plain.evaluate(x[real].numpy(), *affine), rtol=0, atol=1e-12)


@pytest.mark.parametrize("changes", [{"name": "pn_alg2"}, {"name": "pn", "warmup_updates": 0, "batch_backward": False}])
def test_where_the_forward_needs_no_batch_micro_batches_are_one_batch(changes: dict[str, object]) -> None:
    """psi and nu stay as they are until the update ends: outputs and gradients too are the same."""
    one, many = make(**changes), make(**changes)  # type: ignore[arg-type]
    for update in range(4):
        x, g, padding = tokens(12, update)
        whole = step(one, x, padding, g)
        parts = [step(many, x[cut], padding[cut], g[cut]) for cut in torch.arange(12).tensor_split([3, 4, 9])]
        for what, join in (("y", torch.cat), ("gx", torch.cat), ("gw", sum), ("gb", sum)):
            assert_close(join([getattr(part, what) for part in parts]), getattr(whole, what), rtol=0, atol=1e-12)
        for each in (one, many):
            end_update(each)


def test_warmup_counts_updates() -> None:
    norm = make("pn", warmup_updates=2)
    for update in range(4):
        phi = norm.running_phi.clone()
        for seed in range(3):
            x, _, _ = tokens(5, 10 * update + seed)
            z = torch.cat([h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() for h in x.chunk(2, -1)], -1)
            divisor = z.square().mean(0) if update < 2 else phi
            assert_close(norm(x), z / (divisor + 1e-5).sqrt() * norm.weight + norm.bias)
        assert norm.num_updates.item() == update
        end_update(norm)
    assert norm.num_updates.item() == 4


@pytest.mark.parametrize("name", [name for name in BATCH_NORMS if updates_in_backward(name)])
@pytest.mark.parametrize("kernels", ["auto", "plain"])
@pytest.mark.parametrize("per_update", [False, True])
@pytest.mark.parametrize("channels", [slice(None), slice(5, 6)], ids=["all channels", "one channel"])
def test_a_channel_whose_gradient_is_not_finite_keeps_its_backwards_statistics(
    name: str, kernels: str, per_update: bool, channels: slice
) -> None:
    norm, twin = (make(name, kernels=kernels, per_update=per_update) for _ in range(2))
    x, g, _ = tokens(12, 0)
    infinite = g.clone()
    infinite[0, channels] = torch.inf
    for gradient in (g, infinite):
        before = buffers(norm)
        for each, dy in ((norm, gradient), (twin, g)):
            step(each, x, None, dy)
            end_update(each)
    for key, value in buffers(norm).items():
        if key.endswith("gz"):
            want = before[key] if isinstance(norm, WindowNorm) else buffers(twin)[key]  # a window holds whole batches
            want[..., channels] = before[key][..., channels]
            assert_close(value, want, rtol=0, atol=0)


def test_low_precision_changes_the_sums_no_more_than_the_batch() -> None:
    """Sums are kept in float64: a mean far from 0 does not swallow the variance."""
    norm = build_norm(NormConfig("bn", per_update=True, momentum=1.0), DIM)
    x = torch.randn(64, DIM, generator=torch.Generator().manual_seed(0)) + 1000
    for part in x.split(16):
        norm(part)
    end_update(norm)
    assert norm.running_var.dtype == torch.float32
    assert_close(norm.running_var, x.double().var(0).float(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_pending_sums_stay_in_float64_and_move_with_the_module(name: str) -> None:
    norm, twin = make(name), make(name)
    x, g, padding = tokens(9, 0)
    for each in (norm, twin):
        step(each, x, padding, g)
    for each in (norm.half(), twin):
        end_update(each)
    assert_close(running_statistics(norm.double()), running_statistics(twin), rtol=0, atol=1e-6)


def pooled(name: str, batches: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Tensor]:
    """By hand: the statistics of all real tokens of all batches at once."""
    x = torch.cat([x[~padding] for x, _, padding in batches])
    if name == "pn":
        x = torch.cat([h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() for h in x.chunk(2, -1)], -1)
    if name == "bn_released":
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    mean, squares = x.mean(0), (x - x.mean(0)).square().sum(0)
    counted = sum(len(x) for x, _, _ in batches) if name == "bn_released" else len(x)  # padding, at the mean
    counted -= name not in ("rbn", "renorm")  # their variance is biased
    return {"running_mean": mean, "running_var": squares / counted, "running_phi": x.square().mean(0)}


@pytest.mark.parametrize("name", BATCH_NORMS)
@pytest.mark.parametrize("per_update", [True, False])
def test_reestimated_statistics_are_those_of_all_tokens_seen(name: str, per_update: bool) -> None:
    norm = make(name, per_update=per_update)
    step(norm, *(tokens(9, 0)[i] for i in (0, 2, 1)))
    end_update(norm)
    before, batches = buffers(norm), [tokens(count, count) for count in (9, 1, 5)]
    with reestimate(norm):
        for x, g, padding in batches:
            step(norm, x, padding, g)
            assert_close(buffers(norm), before, rtol=0, atol=0)
        end_update(nn.Identity())
    after = buffers(norm)
    want = {key: value for key, value in pooled(name, batches).items() if key in after}
    assert_close({key: after[key] for key in want}, want, rtol=0, atol=1e-10)
    assert {key for key in after if torch.equal(after[key], before[key])} == after.keys() - want.keys()
    x, g, padding = tokens(9, 1)
    step(norm, x, padding, g)
    end_update(norm)
    assert not torch.equal(buffers(norm)[next(iter(want))], after[next(iter(want))])  # it trains on


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_reestimating_nothing_or_failing_changes_nothing(name: str) -> None:
    norm, twin = make(name), make(name)
    x, g, padding = tokens(9, 0)
    for each in (norm, twin):
        step(each, x, padding, g)  # waits for the end of its update, whatever comes between
    with reestimate(norm):
        norm(x[:0])
        norm.eval()(x)
        norm.train()
    with pytest.raises(ValueError, match="8 channels"), reestimate(norm):
        norm(x[:, 1:] if norm(x).numel() else x)
    for each in (norm, twin):
        end_update(each)
    assert_close(buffers(norm), buffers(twin), rtol=0, atol=0)


def test_running_statistics_are_live_named_and_in_order() -> None:
    model = nn.ModuleDict({name: build_norm(NormConfig(name), DIM) for name in NORMS})
    found = running_statistics(model)
    order = [name.partition(".")[0] for name in found]
    assert order == sorted(order)
    assert {*order} == {*BATCH_NORMS}
    assert [name for name in found if name.startswith("pn.")] == ["pn.running_phi", "pn.ema_gz"]
    assert all(value is model.get_buffer(name) for name, value in found.items())
    assert list(running_statistics(model["pnv"])) == ["running_phi"]
    assert running_statistics(nn.ModuleList([build_norm(NormConfig("ln"), DIM), nn.BatchNorm1d(DIM)])) == {}
    assert [name for name in ("bn", "pn", "ln", "instance", "no such norm") if has_statistics(name)] == ["bn", "pn"]


@pytest.mark.parametrize("name", ["bn", "bn_released", "pnv", "weight", "pn"])
def test_statistics_that_the_forward_needs_cannot_be_deferred(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"sync=deferred does not work with \w+, which needs this batch's.* use sync=batch"
    ):
        make(name, sync="deferred")


def test_pn_can_be_deferred_without_warmup_and_batch_backward() -> None:
    for changes in ({"warmup_updates": 0}, {"batch_backward": False}):
        with pytest.raises(ValueError, match="warmup_updates=0 and batch_backward=false"):
            make("pn", sync="deferred", **changes)
    make("pn", sync="deferred", warmup_updates=0, batch_backward=False)
    with pytest.raises(ValueError, match="warmup_updates=0"):
        make("pn_alg2", sync="deferred", warmup_updates=5)


def test_deferred_is_per_update_and_norms_without_statistics_ignore_both() -> None:
    assert NormConfig("pn_alg2", sync="deferred").resolve().per_update
    given = NormConfig("ln", sync="deferred", per_update=False)
    assert given.resolve().per_update is False
    for name in NORMS:
        if not has_statistics(name):
            assert not list(build_norm(NormConfig(name, sync="batch", per_update=True), DIM).buffers())


@pytest.mark.parametrize("name", BATCH_NORMS)
@pytest.mark.parametrize("per_update", [False, True])
def test_reestimation_without_a_batch_in_training_mode_is_refused(name: str, per_update: bool) -> None:
    norm = build_norm(name, 4, per_update=per_update).eval()
    with pytest.raises(ValueError, match=r"call model.train\(\)"), reestimate(norm):
        norm(torch.randn(3, 2, 4))


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_a_state_assigned_to_a_norm_on_the_meta_device_is_trained_like_a_copied_one(name: str) -> None:
    norm = make(name).float()
    with torch.device("meta"):
        loaded = build_norm(NormConfig(name, groups=2, per_update=True), DIM)
    state = {
        key: value.to(torch.bfloat16 if value.is_floating_point() else None) for key, value in norm.state_dict().items()
    }
    loaded.load_state_dict(state, assign=True)
    assert {value.dtype for value in running_statistics(loaded).values()} == {torch.float32}
    loaded.load_state_dict(copy.deepcopy(norm.state_dict()), assign=True)
    x, g, padding = tokens(9, 0)
    for each in (norm, loaded):
        step(each, x.float(), padding, g.float())
        end_update(each)
    assert_close(buffers(loaded), buffers(norm), rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in NORMS if name != "none"])
def test_a_reset_norm_is_like_new(name: str) -> None:
    """``to_empty`` leaves arbitrary numbers in parameters and statistics."""
    new = build_norm(NormConfig(name, groups=2, per_update=True), DIM).double()
    with torch.device("meta"):
        norm = build_norm(NormConfig(name, groups=2, per_update=True), DIM).double()
    norm.to_empty(device="cpu")
    x, g, padding = (each.unsqueeze(1) for each in tokens(9, 0))
    step(random_affine(norm), x, padding.t(), g)
    norm.reset_parameters()
    assert_close(norm.state_dict(), new.state_dict())
    for each in (norm, new):
        step(each, x, padding.t(), g)
        end_update(each)
    assert_close(buffers(norm), buffers(new))


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_batches_in_inference_mode_are_pooled_with_others(name: str) -> None:
    norms = [make(name), make(name)]
    (x, g, padding), (more, _, _) = tokens(9, 0), tokens(5, 1)
    for norm, mode in zip(norms, (torch.inference_mode, torch.no_grad), strict=True):
        with mode():
            norm(more)
        step(norm, x, padding, g)
        end_update(norm)
    assert_close(buffers(norms[0]), buffers(norms[1]))
