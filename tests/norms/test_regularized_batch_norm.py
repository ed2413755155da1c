"""RegularizedBN: the normalization of BN, and the term of the loss with its gradient."""

from pathlib import Path

import numpy as np
import pytest
import torch

from normplugins.norms import NormConfig, build_norm
from tests.helpers.norms import GOLDEN, set_affine


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("regularized_released_*.npz")), ids=lambda path: path.stem)
def test_the_released_code_is_reproduced(path: Path) -> None:
    """The gradients are of the loss with its term. The released root has no eps but bounds the variance by it."""
    vectors = {key: torch.from_numpy(value) for key, value in np.load(path).items() if value.ndim}
    meta = np.load(path)
    settings = {key: float(meta[f"meta_{key}"]) for key in ("penalty_mean", "penalty_var", "momentum")}
    norm = build_norm(NormConfig("rbn", eps=1e-14, **settings), len(vectors["weight"])).double()
    set_affine(norm, vectors["weight"], vectors["bias"])
    for s, mask in enumerate(vectors["mask"]):
        norm.zero_grad()
        x = vectors["x"][s].requires_grad_()
        y = norm(x, mask if meta["meta_padded"] else None)
        ((y * vectors["g"][s]).sum() + norm.loss_term).backward()
        found = {"y": y, "gx": x.grad, "gw": norm.weight.grad, "gb": norm.bias.grad, "loss_term": norm.loss_term}
        found |= {name: norm.get_buffer(name) for name in ("running_mean", "running_var")}
        wanted = {key: vectors[key][s] for key in found}
        torch.testing.assert_close({key: value.detach() for key, value in found.items()}, wanted, rtol=0, atol=1e-9)
    norm.eval()
    torch.testing.assert_close(norm(x, mask).detach(), vectors["y_eval"], rtol=0, atol=1e-9)
