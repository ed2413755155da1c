"""The norms' benchmark on tiny tensors: bytes counted by hand, a row for whatever was measured; no time is tested."""

import pytest
import torch

from normplugins.bench import Options
from normplugins.bench.norm import BASELINE, Case, counted_bytes, measure, run
from normplugins.bench.results import fields_of, read_rows
from normplugins.norms import known_norms

TINY = Case(64, 8)


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        ("ln", 2, 3),
        ("rms", 2, 3),
        ("pn", 2, 3),
        ("pn_alg2", 2, 3),
        ("pn_alg2 plain", 2, 3),
        ("released PN", 2, 3),
        ("torch LayerNorm", 2, 3),
        ("pnv", 3, 5),
        ("bn", 3, 5),
        ("bn plain", 3, 5),
        ("none", 0, 0),
        ("copy", 2, 0),
        ("torch LayerNorm + residual", 4, 5),
        ("pn + residual", 4, 5),
        ("bn + residual apart", 5, 7),
    ],
)
def test_bytes_counted_by_hand(name, forward, backward):
    case = Case(4096, 512)
    pass_bytes = 4096 * 512 * 4
    assert counted_bytes(name, "forward", case) == forward * pass_bytes
    assert counted_bytes(name, "backward", case) == backward * pass_bytes
    assert counted_bytes(name, "both", case) == (forward + backward) * pass_bytes
    half = Case(4096, 512, torch.bfloat16)
    assert counted_bytes(name, "both", half) * 2 == counted_bytes(name, "both", case)


def test_a_padded_case_is_padded_behind_its_sentences():
    mask = Case(64 * 32, 8, padded=True).mask()
    assert mask.shape == (64, 32)
    assert not mask[:, :24].any()
    assert mask[0, 24:].all()
    assert not mask[-1].any()
    assert (mask.long().diff(dim=1) >= 0).all()
    assert fields_of(str(Case(64 * 32, 8, padded=True))) == {
        "tokens": "2048",
        "channels": "8",
        "dtype": "float32",
        "padding": "12.5%",
    }


@pytest.mark.parametrize("padded", [False, True])
def test_every_norm_is_measured_in_every_direction(padded):
    found = measure(Case(64, 8, padded=padded), known_norms(), 2, block_seconds=0)
    for name in (BASELINE, "released PN", "bn plain", *known_norms()):
        assert all(len(found[name, direction].seconds) == 2 for direction in ("forward", "backward", "both"))


def test_norms_after_a_residual_connection_are_measured_with_it_and_apart():
    found = measure(TINY, ["ln", "pn", "bn_released", "rms"], 1, block_seconds=0, residual=True)
    providers = {name for name, _ in found if "residual" in name}
    ours = {f"{name} + residual{apart}" for name in ("pn", "rms") for apart in ("", " apart")}
    assert providers == ours | {"torch LayerNorm + residual"}
    for direction in ("forward", "backward", "both"):
        assert all(len(found[name, direction].seconds) == 1 for name in providers)


def test_a_row_for_each_provider_case_and_direction(tmp_path, capsys):
    series = {"channels": [Case(64, width) for width in (4, 8, 16)]}
    run(Options(results=tmp_path, norms=("pn_alg2", "bn"), repeats=2, threads=1), [TINY], series)
    rows = read_rows(tmp_path / "benchmarks.csv")
    providers = [BASELINE, "pn_alg2", "pn_alg2 plain", "bn", "bn plain"]
    main = [row for row in rows if row["case"] == str(TINY) and row["provider"] in [*providers, "copy"]]
    wanted = [(name, way) for name in providers for way in ("forward", "backward", "both")] + [("copy", "forward")]
    assert [(row["provider"], row["direction"]) for row in main[: len(wanted)]] == wanted
    for row in rows:
        milliseconds, passes = float(row["median_ms"]), {"forward": 2, "backward": 3, "both": 5}[row["direction"]]
        if row["provider"] == BASELINE:
            tokens, channels = (int(fields_of(row["case"])[key]) for key in ("tokens", "channels"))
            counted = passes * tokens * channels * 4 / milliseconds / 1e6
            assert float(row["gb_per_s"]) == pytest.approx(counted, rel=2e-3)
            assert float(row["ratio"]) == 1
        assert row["baseline"] == BASELINE
        assert row["p20_ms"] <= row["p80_ms"] or float(row["p20_ms"]) <= float(row["p80_ms"])
        assert (row["benchmark"], row["repeats"], row["threads"]) == ("norm", "2", "1")
    grown = [fields_of(row["case"])["channels"] for row in rows if row["provider"] == "released PN"]
    assert grown == ["4", "8", "16"]
    said = capsys.readouterr().out
    assert "channels grow" in said
    assert "exponent" in said
