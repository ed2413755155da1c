"""Comparison of the probe's numbers with their formulas in NumPy, in float64."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from normplugins.norms import NormConfig, build_norm
from normplugins.training.statistics_probe import measure, running_before

TIME, SENTENCES, DIM, GROUPS, EPS = 7, 3, 8, 2, 1e-5
Rows = NDArray[np.float64]


def trained_norm(name):
    """Return a norm with random weights that has trained on some batches; ``pn`` is past its warmup."""
    norm = build_norm(NormConfig(name, groups=GROUPS, warmup_updates=2 if name == "pn" else None), DIM).double()
    torch.manual_seed(1)
    for parameter in norm.parameters():
        torch.nn.init.uniform_(parameter, -1.5, 1.5)
    for _ in range(4):
        x, mask, g = batch()
        norm(x.requires_grad_(), mask).backward(g)
    return norm


def batch():
    x, g = torch.randn(2, TIME, SENTENCES, DIM, dtype=torch.float64)
    mask = torch.arange(TIME) >= torch.tensor([[7], [5], [2]])
    return 2 * x + torch.randn(DIM, dtype=torch.float64), mask, torch.where(mask.t()[..., None], 0, g + 0.3)


def one_pass(norm):
    x, mask, g = batch()
    running = running_before(norm)
    x.requires_grad_()
    y = norm(x, mask)
    (grad_x,) = torch.autograd.grad(y, x, g)
    return x.detach(), mask, y.detach(), g, grad_x, running


def rows_of(tensor, mask) -> Rows:
    return tensor[~mask.t()].detach().numpy()


def size(values) -> float:
    return math.sqrt(sum(value**2 for value in values)) / len(values)


def relative(values, to) -> float:
    return math.sqrt(sum(value**2 for value in values) / sum(value**2 for value in to))


def scaled(x: Rows, groups: int) -> tuple[Rows, Rows]:
    factors = 1 / np.sqrt((x.reshape(len(x), groups, -1) ** 2).mean(-1) + EPS)
    return x * np.repeat(factors, DIM // groups, axis=1), factors


@pytest.mark.parametrize(
    "name", ["ln", "rms", "none", "bn", "bn_released", "rbn", "renorm", "pnv", "pn", "pn_alg2", "weight"]
)
def test_every_number_equals_its_formula(name):
    norm = trained_norm(name)
    seen = one_pass(norm)
    mask, running = seen[1], {key: value.numpy() for key, value in seen[-1].items()}
    x, y, g, grad_x = (rows_of(seen[i], mask) for i in (0, 2, 3, 4))
    weight, bias = (
        getattr(norm, key).detach().numpy() if getattr(norm, key, None) is not None else default
        for key, default in (("weight", np.ones(DIM)), ("bias", np.zeros(DIM)))
    )
    want = {"tokens": 14.0}
    if name in ("pn", "bn_released"):
        x, factors = scaled(x, GROUPS if name == "pn" else 1)
        want |= {"group_scale_mean": factors.mean(), "group_scale_deviation": factors.std()}
    mean, square = x.mean(0), (x**2).mean(0)
    var = square - mean**2
    want |= {
        "mean": size(mean),
        "variance": size(var),
        "quadratic_mean": size(square),
        "psi_over_sigma": np.sqrt(square / var).mean(),
        "grad_output": math.sqrt((g**2).sum()),
        "grad_input": math.sqrt((grad_x**2).sum()),
        "grad_mean": size(weight * g.mean(0)),
    }
    positions = TIME * SENTENCES if name == "bn_released" else 14  # its padding is filled with the mean and counted
    kept = ((x - mean) ** 2).sum(0) / (positions - (name in ("bn", "bn_released")))
    if name in ("bn", "bn_released", "rbn", "renorm", "weight"):
        want["mean_distance"] = size(mean - running["running_mean"])
    if name in ("bn", "bn_released", "rbn", "renorm"):
        sigma = np.sqrt(running["running_var"])
        want["variance_distance"] = size(kept - running["running_var"])
        want["mean_tid"] = relative(mean - running["running_mean"], sigma)
        want["deviation_tid"] = relative(np.sqrt(kept) - sigma, sigma)
    if name in ("pnv", "pn", "pn_alg2"):
        psi = np.sqrt(running["running_phi"])
        want["quadratic_mean_distance"] = size(square - running["running_phi"])
        want["psi_tid"] = relative(np.sqrt(square) - psi, psi)
    products = (g * (y - bias)).sum(0) / positions
    if name in ("pn", "pn_alg2"):
        normalized = x / np.sqrt(running["running_phi"] + EPS)
        products = weight * (g * normalized).sum(0) / (TIME * SENTENCES if name == "pn" else 14)
        want |= {"nu": size(running["nu"]), "nu_distance": size(products - running["nu"])}
        assert running["nu"].any()
    if name == "bn":
        products = weight * (g * (x - mean) / np.sqrt(var + EPS)).mean(0)
    if name == "ln":
        token = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + EPS)
        products = weight * (g * token).mean(0)
    want["grad_product"] = size(products)
    got = {key: float(value) for key, value in measure(norm, *seen).items()}
    want["pnv_bound_smaller"] = got["pnv_bound_smaller"]  # below
    assert got == pytest.approx(want, rel=1e-9, abs=1e-12)
    assert got.keys() == want.keys()


@pytest.mark.parametrize("shift", [0.0, 1.0, 4.0])
def test_the_share_of_smaller_bounds_agrees_with_autograd(shift):
    """dL/dx of PN-V and of BN are compared in each channel."""
    torch.manual_seed(3)
    x = torch.randn(40, 50, dtype=torch.float64) + shift * torch.randn(50, dtype=torch.float64)
    g = torch.randn(40, 50, dtype=torch.float64) + 0.5 * torch.randn(50, dtype=torch.float64)
    weight = torch.rand(50, dtype=torch.float64)
    x[:, 0] = 0  # its variance is 0, so it does not count

    def squares(normalized):
        (grad,) = torch.autograd.grad((normalized(leaf) * weight * g).sum(), leaf)
        return grad.square().sum(0)[1:]

    leaf = x.clone().requires_grad_()
    pnv = squares(lambda x: x / x.square().mean(0).sqrt())
    bn = squares(lambda x: (x - x.mean(0)) / (x - x.mean(0)).square().mean(0).sqrt())
    found = measure(torch.nn.Identity(), x, None, x, g, g, {})
    assert float(found["pnv_bound_smaller"]) == pytest.approx(float((pnv < bn).double().mean()))
    assert 0 < float(found["pnv_bound_smaller"]) < 1


def test_a_batch_without_tokens_has_no_numbers():
    x = torch.zeros(5, 0, DIM)
    assert measure(torch.nn.Identity(), x, None, x, x, x, {}) == {}
