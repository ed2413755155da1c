"""Which tensors the kernels accept, and the errors for others."""

import subprocess
import sys

import pytest
import torch

from normplugins.norms import NormConfig, build_norm
from normplugins.norms.backends import dispatch
from normplugins.norms.backends.dispatch import backend_for as choose
from tests.helpers.triton import DEVICE


def test_triton_is_chosen_by_name_and_on_a_gpu() -> None:
    x = torch.ones(2, 4)
    assert choose("triton", x.to(DEVICE), True) == "triton"
    assert choose("triton", x.to(DEVICE), False) == "triton"
    assert choose("auto", x, True) != "triton"
    assert choose("plain", x.to(DEVICE), True) is None
    if DEVICE == "cuda":
        assert choose("auto", x.to(DEVICE), True) == "triton"


def test_an_error_without_a_gpu_or_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    norm = build_norm(NormConfig("pn_alg2", kernels="triton"), 4)
    with pytest.raises(ValueError, match="kernels=triton needs a GPU; set kernels=auto"):
        norm(torch.ones(2, 4))


def test_an_error_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_has_triton", lambda: False)
    with pytest.raises(ValueError, match="kernels=triton: Triton is not installed"):
        build_norm(NormConfig("rms", kernels="triton"), 4)(torch.ones(2, 4))


@pytest.mark.slow
def test_the_norms_need_no_triton_and_import_no_framework_but_torch() -> None:
    code = (
        "import sys, torch; sys.modules['triton'] = None;"
        "from normplugins.norms import NormConfig, build_norm;"
        "build_norm(NormConfig('pn'), 4)(torch.ones(2, 4)).sum().backward();"
        "assert not {'fairseq', 'hydra', 'omegaconf', 'wandb'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unsupported_settings_use_plain_code() -> None:
    """The switches of BatchNorm, and tiles wider than 8,192 channels."""
    for name, dim in (("bn_released", 8), ("bn", 8), ("rms", 8193), ("pn", 8200), ("pnv", 8200)):
        scaling = None if name == "rms" else True
        ours, plain = (
            build_norm(NormConfig(name, groups=1, group_scaling=scaling, kernels=k), dim).to(DEVICE)
            for k in ("triton", "plain")
        )
        x = torch.randn(3, dim, device=DEVICE)
        assert torch.equal(ours(x), plain(x))


@pytest.mark.parametrize("name", ["pn", "rms"])
def test_an_x_of_other_channels_is_refused(name: str) -> None:
    norm = build_norm(NormConfig(name, kernels="triton"), 4).to(DEVICE)
    with pytest.raises(ValueError, match=r"a norm of 4 channels takes .*, not \(3, 2, 8\)"):
        norm(torch.ones(3, 2, 8, device=DEVICE))
