import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from normplugins.models.dropout import add_dropout, dropout, relu_dropout, run_kernel

KINDS = pytest.mark.parametrize("kind", ["alone", "added", "after relu"])


def dropped_out(kind, x, p, residual=None):
    if kind == "added":
        return add_dropout(torch.zeros_like(x) if residual is None else residual, x, p, training=True)
    return (dropout if kind == "alone" else relu_dropout)(x, p, training=True)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.5, 0.9])
def test_each_element_is_dropped_with_probability_p_and_independently_of_its_neighbors(p):
    torch.manual_seed(0)
    n = 400_000
    kept = dropout(torch.ones(n), p, training=True).ne(0).double()
    deviations = 5 * (p * (1 - p)) ** 0.5
    assert abs(kept.mean() - (1 - p)) < deviations / n**0.5
    for lane in range(4):  # four decisions come from one 64-bit number
        assert abs(kept[lane::4].mean() - (1 - p)) < deviations / (n / 4) ** 0.5
    centred = kept - (1 - p)
    for distance in (1, 2, 3, 4, 8, 512):
        covariance = (centred[:-distance] * centred[distance:]).mean()
        assert abs(covariance) < 5 * p * (1 - p) / (n - distance) ** 0.5


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5, 2), (0, 4)])
def test_survivors_are_scaled_so_that_the_mean_stays(kind, shape):
    torch.manual_seed(0)
    given = torch.stack([dropped_out(kind, torch.ones(shape), 0.3) for _ in range(2000)])
    assert given.shape == (2000, *shape)
    assert ((given == 0) | ((given - 1 / 0.7).abs() < 1e-4)).all()
    if given.numel():
        assert abs(given.mean() - 1) < 5 * (0.3 / 0.7 / given.numel()) ** 0.5


@KINDS
def test_the_gradient_is_that_of_the_drawn_mask(kind):
    torch.manual_seed(0)
    x, residual = (torch.randn(5, 3, 2, dtype=torch.double, requires_grad=True) for _ in range(2))

    def same_mask(x, residual):
        torch.manual_seed(1)
        return dropped_out(kind, x, 0.4, residual)

    assert torch.autograd.gradcheck(same_mask, (x, residual))


def test_together_with_the_operation_beside_it_the_outcome_is_the_same():
    torch.manual_seed(0)
    x, residual = torch.randn(2, 50, 4)
    seeded = {}
    for name, function in {
        "alone": lambda: dropout(x, 0.3, True),
        "added": lambda: add_dropout(residual, x, 0.3, True),
        "after relu": lambda: relu_dropout(x, 0.3, True),
    }.items():
        torch.manual_seed(1)
        seeded[name] = function()
    torch.testing.assert_close(seeded["added"], residual + seeded["alone"])
    torch.testing.assert_close(seeded["after relu"], F.relu(seeded["alone"]))


@KINDS
def test_the_masks_go_on_from_a_saved_state_of_pytorchs_generator(kind):
    x = torch.ones(1000)
    torch.manual_seed(0)
    dropped_out(kind, x, 0.3)
    state = torch.get_rng_state()
    then = dropped_out(kind, x, 0.3)
    after = dropped_out(kind, x, 0.3)
    assert not torch.equal(then, after)
    torch.set_rng_state(state)
    assert torch.equal(dropped_out(kind, x, 0.3), then)
    assert torch.equal(dropped_out(kind, x, 0.3), after)


@KINDS
def test_activation_checkpointing_draws_the_same_mask_again(kind):
    torch.manual_seed(0)
    x = torch.ones(1000, requires_grad=True)
    y = checkpoint(lambda x: dropped_out(kind, x, 0.3).square(), x, use_reentrant=False)
    torch.rand(1)  # the generator is somewhere else by the time of the backward pass
    y.sum().backward()
    torch.testing.assert_close(x.grad, 2 * y)  # y = (s x)^2 with s = 0 or 1 / 0.7, at x = 1


@KINDS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half_precision(kind, dtype):
    x = torch.ones(100, dtype=dtype, requires_grad=True)
    y = dropped_out(kind, x, 0.3)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype


def test_half_precision_draws_the_mask_of_float32():
    x = torch.randn(5000).bfloat16()
    half = run_kernel(x, 0.3, seed=7)
    torch.testing.assert_close(half, run_kernel(x.float(), 0.3, seed=7).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.3, False), (1e-7, True)])
def test_nothing_is_dropped_without_a_probability_or_at_evaluation(p, training):
    x, residual = torch.randn(2, 10)
    torch.testing.assert_close(dropout(x, p, training), x)
    torch.testing.assert_close(add_dropout(residual, x, p, training), residual + x)
    torch.testing.assert_close(relu_dropout(x, p, training), F.relu(x))


def test_a_probability_of_one_drops_all():
    assert not dropout(torch.ones(100), 1.0, True).any()
    assert not relu_dropout(torch.ones(100), 1.0, True).any()


def test_a_residual_of_another_type_is_added_as_pytorch_adds_it():
    residual, x = torch.full((1000,), 2.0, dtype=torch.double), torch.zeros(1000)
    assert torch.equal(add_dropout(residual, x, 0.3, True), residual)
