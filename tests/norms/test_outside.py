"""A new norm, in one file of this package or of another, appears everywhere without any other edit."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NORM = '''
from dataclasses import dataclass
import torch
from normplugins.norms import EpsSettings, RunningNorm, RunningSettings, register_norm, setting

@dataclass(frozen=True)
class OutsideSettings(RunningSettings, EpsSettings):
    gain: float = setting(2.0, "the initial gain", above=0, maximum=8)

@register_norm("outside", OutsideSettings)
class Outside(RunningNorm):
    """A norm of another package."""

    statistics = ("running_mean",)
    momentum = 0.5

    def __init__(self, dim, settings):
        super().__init__(dim, settings)
        self.weight.data.fill_(settings.gain)
        self.add_statistic("running_mean", 0.0)

    def forward(self, x, padding_mask=None):
        mean = self.running_mean
        if self.training:
            count = x.new_full((), x[..., 0].numel())
            count, mean = self.synchronize(count, x.detach().reshape(-1, self.dim).mean(0))
            self.update_running_stats(count, mean)
        return (x - mean) * self.weight + self.bias
'''
USE = """
import torch
from normplugins import register
from normplugins.norms import known_norms
assert {"outside", "plain"} <= {*known_norms()}
register()
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config
from normplugins.utils.errors import UserError
from tests.helpers.language_models import make_language_model, train_lm
from tests.helpers.models import make_model, train
from tests.helpers.norms import BATCH_NORMS

assert {"outside", "plain"} <= {*BATCH_NORMS}
for experiment in ("ptb", "wmt14"):
    config = compose_config(experiment, ["norm=outside", "norm.gain=0.125"])
    check(config)
    assert config.run_dir == f"runs/{experiment}/outside,norm.gain=0.125/seed1", config.run_dir
    assert (config.norm.gain, config.model.norm_gain) == (0.125, 0.125)
    assert config.norm.per_update == (experiment == "wmt14")
assert compose_config("demo", ["norm=outside", "norm.gain=2"]).variant == "outside"
assert compose_config("demo", ["norm=plain"]).variant == "plain"
for overrides, message in (
    (["norm=outside", "norm.gain=9"], "gain is 9.0, but must be at most 8"),
    (["norm=outside", "norm.gain=loud"], "norm.gain=loud: a number is needed"),
    (["norm=ln", "norm.gain=1"], "norm.gain=1.0 has no effect on ln"),
    (["norm=inside"], "unknown norm 'inside'. Known: bn, bn_released, "),
):
    try:
        check(compose_config("demo", overrides))
    except UserError as error:
        assert message in str(error), error
    else:
        raise AssertionError(overrides)
models = [train(make_model(encoder_norm="outside", norm_gain=0.5), updates=2)]
models += [train_lm(make_language_model("transformer", norm="outside", norm_gain=0.5), updates=2)]
for model in models:
    norms = [module for module in model.modules() if type(module).__name__ == "Outside"]
    assert norms and all(norm.settings.gain == 0.5 and norm.running_mean.any() for norm in norms)

from fairseq import options
parser = options.get_training_parser()
args = options.parse_args_and_arch(parser, ["data", "--arch", "norm_transformer", "--norm-gain", "3"])
assert args.norm_gain == 3.0
assert "the initial gain" in " ".join(parser.format_help().split())
"""


def python(code: str, folder: Path) -> None:
    """Run code in a new process that finds packages in ``folder`` first."""
    path = os.pathsep.join([str(folder), str(REPOSITORY)])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": path}, cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The repository with one more file of a norm, ``plain``, and a package with another norm, as if installed."""
    (tmp_path / "outside_norm.py").write_text(NORM)
    info = tmp_path / "outside_norm-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-norm\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[normplugins.norms]\noutside = outside_norm\n")
    norms = tmp_path / "normplugins" / "norms"
    norms.mkdir(parents=True)
    for source, target in ((REPOSITORY / "normplugins", norms.parent), (REPOSITORY / "normplugins" / "norms", norms)):
        for path in source.iterdir():
            if path.name not in ("norms", "__pycache__"):
                (target / path.name).symlink_to(path)
    for name in ("configs", "Makefile", "pyproject.toml", "requirements.txt", "setup.py", "tests"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    changes = {'"outside"': '"plain"', "A norm of another package.": "New.", "gain": "start"}  # no setting in common
    plain = NORM
    for old, new in changes.items():
        plain = plain.replace(old, new)
    (norms / "plain.py").write_text(plain)
    return tmp_path


@pytest.mark.slow
def test_their_settings_are_options_of_every_command_line(tree: Path) -> None:
    """Typed, range-checked, documented and part of the cell's name; the norms are in the lists that tests use."""
    python(USE, tree)


@pytest.mark.slow
def test_make_lists_it_and_has_targets_for_it(tree: Path) -> None:
    (tree / ".venv" / "bin").mkdir(parents=True)
    (tree / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (tree / ".venv" / "bin" / "python").chmod(0o755)
    for arguments, expected in ((["help"], "plain        New."), (["-n", "iwslt14-plain"], "run iwslt14 norm=plain")):
        ran = subprocess.run(["make", *arguments], cwd=tree, capture_output=True, text=True, check=True)
        assert expected in ran.stdout
