"""A norm of another package: a module with ``register_norm``, used by its name in a registry, with no edit of ours."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from normplugins.norms import NormConfig, build_norm, registry

REPOSITORY = Path(__file__).parents[2]
MODULE = """
import torch
from normplugins.norms import register_norm

@register_norm("outside", momentum=0.5)
class Outside(torch.nn.Module):
    def __init__(self, dim, *, eps=1e-5, momentum=0.25):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.gain = torch.nn.Parameter(torch.ones(dim))

    def forward(self, x, padding_mask=None):
        return x * self.gain / (1 + x.abs() + self.eps)
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the module and, as an installer would leave it, its entry point."""
    (tmp_path / "outside_norm.py").write_text(MODULE)
    info = tmp_path / "outside_norm-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-norm\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[normplugins.norms]\noutside = outside_norm\n")
    monkeypatch.setattr(registry, "_NORMS", dict(registry._NORMS))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "outside_norm", raising=False)
    return tmp_path


def test_it_is_composed_by_name_and_trains_in_every_model(outside: Path) -> None:
    from normplugins.runs.check import check
    from normplugins.runs.compose import compose_config
    from tests.helpers.language_models import MODELS, make_language_model, train_lm
    from tests.helpers.models import make_model, train

    importlib.import_module("outside_norm")
    norm = build_norm(NormConfig("outside", eps=0.5), 3)
    assert (norm.eps, norm.momentum) == (0.5, 0.5)
    for experiment in ("demo", "ptb"):
        composed = compose_config(experiment, ["norm=outside", "norm.momentum=0.125"])
        check(composed)
        assert composed.run_dir == f"runs/{experiment}/outside,norm.momentum=0.125/seed1"
        assert composed.model.norm_momentum == 0.125
    models = [train(make_model(encoder_norm="outside", decoder_norm="outside", norm_momentum=0.125), updates=2)]
    models += [train_lm(make_language_model(kind, norm="outside", norm_momentum=0.125), updates=2) for kind in MODELS]
    for model in models:
        norms = [module for module in model.modules() if type(module).__name__ == "Outside"]
        assert len(norms) >= 4
        assert all(norm.momentum == 0.125 and not torch.equal(norm.gain, torch.ones(16)) for norm in norms)


def test_an_installed_package_is_found_by_its_entry_point(outside: Path) -> None:
    code = "from normplugins.norms import known_norms; print('outside' in known_norms())"
    path = os.pathsep.join([str(outside), str(REPOSITORY)])
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code] if sys.version_info >= (3, 11) else [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path}, cwd=outside, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.strip() == "True"
