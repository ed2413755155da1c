"""PN as released against recorded vectors, and the switches between it and Algorithm 2."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from normplugins.norms import NormConfig, build_norm
from tests.helpers.norms import GOLDEN, SWITCHES, random_affine, replay, step


def released(i: int, **changes: object) -> tuple["np.lib.npyio.NpzFile", NormConfig]:
    vectors = np.load(GOLDEN / f"power_released_{i}.npz")
    settings: dict[str, object] = {key: float(vectors[f"meta_{key}"]) for key in ("eps", "alpha_fwd", "alpha_bkw")}
    settings |= {"groups": int(vectors["meta_groups"]), "warmup_updates": int(vectors["meta_warmup_iters"])}
    return vectors, NormConfig(**({"name": "pn"} | settings | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("i", [0, 1, 2])
def test_released_pn_is_reproduced(i: int) -> None:
    vectors, config = released(i)
    norm = build_norm(config, len(vectors["weight"]))
    replay(norm, vectors, ("running_phi", "ema_gz"))
    assert norm.num_updates.item() == len(vectors["x"])


def test_algorithm_2_with_every_switch_is_pn_as_released() -> None:
    vectors, config = released(0, name="pn_alg2", **dict.fromkeys(SWITCHES, True))
    replay(build_norm(config, len(vectors["weight"])), vectors, ("running_phi", "ema_gz"))


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_matters_to_the_recorded_vectors(switch: str) -> None:
    vectors, config = released(0, **{switch: False})
    with pytest.raises(AssertionError, match=r"step \d+"):
        replay(build_norm(config, len(vectors["weight"])), vectors, ("running_phi", "ema_gz"))


def test_pn_with_every_switch_off_is_algorithm_2() -> None:
    off = NormConfig("pn", warmup_updates=0, **dict.fromkeys(SWITCHES, False))
    assert build_norm(off, 8).settings == build_norm("pn_alg2", 8).settings


def test_unscaled_nu_is_the_same_recursion_rescaled() -> None:
    scaled, unscaled = (
        random_affine(build_norm(NormConfig("pn_alg2", alpha_bkw=0.8, unscaled_nu=u), 6).double())
        for u in (False, True)
    )
    for _ in range(5):
        x, g = torch.randn(2, 7, 6, dtype=torch.float64)
        assert_close(step(scaled, x, None, g).gx, step(unscaled, x, None, g).gx)
        assert_close(scaled.ema_gz, unscaled.ema_gz * (1 - 0.8))


def test_warmup_without_double_update_takes_the_cumulative_mean_only() -> None:
    norm = build_norm(NormConfig("pn_alg2", warmup_updates=4), 5).double()
    batches = torch.randn(6, 7, 5, dtype=torch.float64)
    means = batches.square().mean(1)
    for t, x in enumerate(batches, 1):
        phi = norm.running_phi.clone()
        y = norm(x)
        divisor = means[t - 1] if t <= 4 else phi
        assert_close(y, x / (divisor + 1e-5).sqrt())
        expected = means[:t].mean(0) if t < 4 else 0.9 * phi + 0.1 * means[t - 1]
        assert_close(norm.running_phi, expected)


def test_two_calls_before_one_backward_each_use_their_own_psi() -> None:
    norm, first, second = (build_norm(NormConfig("pn_alg2"), 4).double() for _ in range(3))
    x, alone = (torch.arange(20.0).view(5, 4).double().sin().requires_grad_() for _ in range(2))
    norm(norm(x)).square().sum().backward()
    assert norm.num_updates.item() == 2
    middle = first(alone)
    between = middle.detach().requires_grad_()
    second.running_phi.copy_(first.running_phi)
    second(between).square().sum().backward()
    first.ema_gz.copy_(second.ema_gz)  # nu is that of the module, so the earlier call's backward uses the newer nu
    middle.backward(between.grad)
    assert_close(x.grad, alone.grad)
