"""``un`` and ``mabn`` against vectors that their released code computed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from normplugins.norms import NormConfig, build_norm
from tests.helpers.norms import GOLDEN, replay

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


def test_the_gradients_of_an_outlier_stay_out_of_the_window_if_another_forward_follows_it() -> None:
    norm = build_norm("un", 4, window=2, warmup_updates=0, outlier_filtration=True).double()
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    for _ in range(5):
        norm(x).square().sum().backward()
    running = norm.ema_gz.clone()
    of_outlier = norm(x * torch.tensor([100.0, 0.01, 100.0, 0.01]))
    norm(x)
    of_outlier.square().sum().backward()
    torch.testing.assert_close(norm.window_gz[-1], running)
