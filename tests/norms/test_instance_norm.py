"""InstanceNorm against a plain reference for each sentence; padding, and rows without sentences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from normplugins.norms import NormConfig, build_norm
from tests.helpers import reference
from tests.helpers.norms import padding, random_affine, step


@pytest.mark.parametrize("training", [True, False])
def test_it_is_the_reference_on_each_sentence(training: bool) -> None:
    norm = random_affine(build_norm(NormConfig("instance", eps=1e-3), 6).double()).train(training)
    w, b = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    x, lengths = np.random.default_rng(0).normal(1, 2, (5, 3, 6)), [5, 2, 1]
    y = norm(torch.from_numpy(x), padding(lengths)).detach().numpy()
    for i, length in enumerate(lengths):
        want = reference.BatchNorm(6, eps=1e-3).train(x[:length, i], w, b)
        np.testing.assert_allclose(y[:length, i], want, rtol=0, atol=1e-12)
        assert not y[length:, i].any()


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=3).filter(any),
    extra=st.integers(0, 3),
    junk=st.sampled_from([0.0, 1e30, float("inf"), float("nan")]),
    left=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_each_sentence_is_as_if_it_were_alone(
    lengths: list[int], extra: int, junk: float, left: bool, seed: int
) -> None:
    """Padding at any place and with any values gives the same outputs and gradients as no padding."""
    torch.manual_seed(seed)
    norm, mask = random_affine(build_norm(NormConfig("instance"), 4).double()), padding(lengths, extra)
    mask = mask.flip(1) if left else mask
    pads = mask.t()
    x, g = torch.randn(2, *pads.shape, 4, dtype=torch.float64)
    done = step(norm, torch.where(pads.unsqueeze(-1), junk, x), mask, g)
    assert not done.y[pads].any()
    assert not done.gx[pads].any()
    assert done.gw is not None
    assert done.gw.isfinite().all()
    for i, length in enumerate(lengths):
        real = ~pads[:, i]
        if length:
            alone = step(norm, x[real, i : i + 1], None, g[real, i : i + 1])
            assert_close((done.y[real, i], done.gx[real, i]), (alone.y[:, 0], alone.gx[:, 0]))


def test_rows_without_sentences_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs sentences, x \(T, B, 4\), not rows \(6, 4\)"):
        build_norm(NormConfig("instance"), 4)(torch.randn(6, 4))
