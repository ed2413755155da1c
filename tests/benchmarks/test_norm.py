"""The norms' benchmark on tiny tensors: what is measured; no time is tested."""

import numpy as np
import pytest

from benchmarks import norm
from benchmarks.measure import fields_of, read
from benchmarks.norm import BASELINE, Case, measure
from benchmarks.released import ReleasedPowerNorm
from normplugins.norms import known_norms
from tests.helpers.norms import GOLDEN, replay


def test_a_padded_case_is_padded_behind_its_sentences():
    mask = Case(64 * 32, 8, padded=True).mask()
    assert mask.shape == (64, 32)
    assert not mask[:, :24].any()
    assert (mask.long().diff(dim=1) >= 0).all()
    assert fields_of(str(Case(64 * 32, 8, padded=True)))["padding"] == "12.5%"


@pytest.mark.parametrize("padded", [False, True])
def test_every_norm_is_measured_in_every_direction(padded):
    found = measure(Case(64, 8, padded=padded), known_norms(), 2, seconds=0)
    for name in (BASELINE, "released PN", "bn plain", *known_norms()):
        assert all(len(found[name, direction]) == 2 for direction in ("forward", "backward", "both"))


@pytest.mark.slow
def test_rows_are_written_and_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(norm, "main_cases", lambda *_: [Case(64, 8)])
    norm.main(["--norms", "pn_alg2", "--repeats", "2", "--threads", "1", "--quick", "--results", str(tmp_path)])
    rows = read(tmp_path / "benchmarks.csv")
    ways = ["forward", "backward", "both"]
    wanted = [(name, way) for name in (BASELINE, "pn_alg2", "pn_alg2 plain") for way in ways] + [("copy", "forward")]
    assert list(zip(rows["provider"], rows["direction"], strict=True)) == wanted
    assert "pn_alg2 plain" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("power_released_*.npz")), ids=lambda path: path.stem)
def test_the_released_pn_repeats_the_recorded_steps(path):
    vectors = np.load(path)
    settings = {name: float(vectors[f"meta_{name}"]) for name in ("eps", "alpha_fwd", "alpha_bkw")}
    dim, groups, warmup = vectors["weight"].shape[0], int(vectors["meta_groups"]), int(vectors["meta_warmup_iters"])
    replay(ReleasedPowerNorm(dim, groups, warmup, **settings), vectors, ("running_phi", "ema_gz"))
