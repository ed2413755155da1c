"""``un`` and ``mabn`` against vectors that their released code computed, and the law that both follow."""

from pathlib import Path

import numpy as np
import pytest
import torch

from normplugins.norms import NormConfig, build_norm
from normplugins.norms.moving_window import WindowNorm
from tests.helpers.norms import GOLDEN, replay, step

VECTORS = sorted(GOLDEN.glob("unified_released_*.npz")) + sorted(GOLDEN.glob("moving_average_released_*.npz"))


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_the_released_code_is_reproduced(path: Path) -> None:
    """From the first update through the warmup, and after the 1,000th, where the ratio to the running value begins."""
    vectors = np.load(path)
    settings = {"window": int(vectors["meta_window"]), "warmup_updates": int(vectors["meta_warmup"])}
    if path.stem.startswith("unified"):
        config = NormConfig("un", outlier_filtration=bool(vectors["meta_filtration"]), **settings)
        names: tuple[str, ...] = ("running_phi", "ema_gz")
    else:
        config, names = NormConfig("mabn", momentum=0.1, **settings), ("running_phi",)
    norm = build_norm(config, len(vectors["weight"])).double()
    norm.running_phi.copy_(torch.from_numpy(vectors["initial_phi"]))
    norm.window_phi.copy_(torch.from_numpy(vectors["initial_window"]))
    norm.num_updates.fill_(int(vectors["meta_start"]))
    replay(norm, vectors, names)


@pytest.mark.parametrize("name", ["un", "mabn"])
def test_equal_batches_are_normalized_as_by_pnv(name: str) -> None:
    """Averages of equal batches are the batch's own values, so that forward and gradient are PN-V's exactly."""
    pnv = build_norm(NormConfig("pnv", alpha_fwd=0.0), 4).double()
    norm = build_norm(NormConfig(name, alpha_fwd=0.0, momentum=1.0, warmup_updates=0, window=2), 4).double()
    assert isinstance(norm, WindowNorm)
    x, g = torch.randn(2, 9, 4, dtype=torch.float64)
    for _ in range(60):  # un's nu, with a decay of 0.9, has come within 0.2 % of the batch's own
        ours = step(norm, x, None, g)
    theirs = step(pnv, x, None, g)
    torch.testing.assert_close(ours.y, theirs.y)
    torch.testing.assert_close(ours.gw, theirs.gw)
    torch.testing.assert_close(ours.gx, theirs.gx, rtol=0, atol=5e-3)
