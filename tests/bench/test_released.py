"""The released code's passes give the released code's numbers, to the vectors recorded from it."""

import numpy as np
import pytest
import torch

from normplugins.bench.released import ReleasedPowerNorm
from normplugins.norms import NormConfig, build_norm
from tests.helpers.norms import GOLDEN, replay, step

VECTORS = sorted(GOLDEN.glob("power_released_*.npz"))


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_recorded_steps(path):
    vectors = np.load(path)
    dim = vectors["weight"].shape[0]
    settings = {name: float(vectors[f"meta_{name}"]) for name in ("eps", "alpha_fwd", "alpha_bkw")}
    norm = ReleasedPowerNorm(dim, int(vectors["meta_groups"]), int(vectors["meta_warmup_iters"]), **settings)
    replay(norm, vectors, ("running_phi", "ema_gz"))


def test_it_is_our_pn_through_warmup_and_after():
    torch.manual_seed(0)
    theirs = ReleasedPowerNorm(12, groups=3, warmup_updates=2).double()
    ours = build_norm(NormConfig(name="pn", groups=3, warmup_updates=2), 12).double()
    mask = torch.tensor([[False, False, True], [False, False, False]])
    for _ in range(4):
        x, g = torch.randn(2, 3, 2, 12, dtype=torch.float64)
        one, other = step(theirs, x, mask, g), step(ours, x, mask, g)
        for name in ("y", "gx", "gw", "gb"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-12, atol=1e-12)
