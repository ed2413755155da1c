"""RegularizedBN: the normalization of BN, and the term of the loss with its gradient."""

import torch

from normplugins.norms import NormConfig, build_norm
from tests.helpers.norms import random_affine, step


def test_without_penalties_it_is_bn() -> None:
    rbn = random_affine(build_norm(NormConfig("rbn", penalty_mean=0.0, penalty_var=0.0), 5).double())
    bn = random_affine(build_norm(NormConfig("bn", momentum=0.05), 5).double())
    for _ in range(3):
        x, g = torch.randn(2, 3, 4, 5, dtype=torch.float64)
        mask = torch.arange(3) >= torch.tensor([[3], [2], [1], [3]])
        ours, theirs = step(rbn, x, mask, g), step(bn, x, mask, g)
        torch.testing.assert_close(vars(ours), vars(theirs))
        assert rbn.loss_term.item() == 0
    torch.testing.assert_close(rbn.running_mean, bn.running_mean)


def test_the_term_and_its_gradient_follow_the_equation() -> None:
    norm = build_norm(NormConfig("rbn", penalty_mean=0.7, penalty_var=0.3, momentum=0.2), 4).double()
    norm.running_mean.normal_()
    x = (3 * torch.randn(6, 4, dtype=torch.float64)).requires_grad_()
    padding = torch.tensor([False, False, True, False, False, True])
    real = x[~padding]
    mean, var = real.mean(0), real.var(0, unbiased=False)
    running_mean, running_var = (
        0.8 * running + 0.2 * batch.detach() for running, batch in ((norm.running_mean, mean), (norm.running_var, var))
    )
    expected = 0.7 * (running_mean - mean).square().sum() + 0.3 * (running_var - var).abs().sum()
    norm(x, padding)
    torch.testing.assert_close(norm.loss_term, expected)
    (ours,) = torch.autograd.grad(norm.loss_term, x)
    (theirs,) = torch.autograd.grad(expected, x)
    torch.testing.assert_close(ours, theirs)
