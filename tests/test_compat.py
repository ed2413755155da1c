"""fairseq on current versions of Python: it imports, its checkpoints load, and loading a file runs no code of it."""

import argparse
import pickle
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch

from normplugins import compat  # noqa: F401
from normplugins.runs.compose import compose_config
from tests.helpers.runs import PATIENCE, REPOSITORY, MakesFolder, write_malicious

# isort: split
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import CommonConfig, FairseqConfig
from omegaconf import OmegaConf


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.mark.slow
def test_fairseq_imports_without_output_and_knows_the_plugin():
    done = python(
        "import normplugins.cli, normplugins; normplugins.register()\n"
        "from fairseq.models import MODEL_REGISTRY; print('norm_transformer' in MODEL_REGISTRY)"
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.slow
def test_norms_alone_do_not_import_fairseq():
    done = python("import sys, normplugins.norms; print('fairseq' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


def test_nested_defaults_stay_instances():
    """Each nested section is a config of its own; default factories in place of the instances would break this."""
    config = FairseqConfig()
    assert isinstance(config.common, CommonConfig)
    assert OmegaConf.structured(FairseqConfig).common.seed == 1
    assert hash(CommonConfig()) == hash(CommonConfig())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="older versions of Python refuse only lists")
def test_dataclasses_of_other_packages_are_as_strict_as_before():
    @dataclass
    class Inner:
        value: int = 1

    with pytest.raises(ValueError, match="mutable default"):
        dataclass(type("Outer", (), {"__annotations__": {"inner": Inner}, "inner": Inner()}))
    with pytest.raises(TypeError, match="unhashable"):
        hash(Inner())

    @dataclass(frozen=True)
    class Options:
        names: list = field(default_factory=list)

    assert Options().names == []


def test_a_checkpoint_with_a_namespace_loads_after_a_config_is_composed(tmp_path):
    """fairseq reads it through an interface that Hydra refuses in a process that keeps version 1.3 of its configs."""
    path = tmp_path / "checkpoint.pt"
    history = [{"criterion_name": "x", "optimizer_name": "x", "lr_scheduler_state": {}, "num_updates": 5}]
    args = argparse.Namespace(arch="transformer", task="translation", lr=[0.1])
    extra = {"train_iterator": {"epoch": 1}}
    content = {"args": args, "model": {"w": torch.ones(2)}, "optimizer_history": history, "extra_state": extra}
    torch.save(content | {"last_optimizer_state": None}, path)
    compose_config("demo")
    state = checkpoint_utils.load_checkpoint_to_cpu(str(path), {"lr": [0.2]})
    assert (state["cfg"].optimization.lr, state["model"]["w"].tolist()) == ([0.2], [1.0, 1.0])


@pytest.mark.parametrize("protocol", [2, 4])
def test_malicious_checkpoint_is_refused(protocol, tmp_path):
    proof = tmp_path / "proof"
    write_malicious(tmp_path / "zip.pt", proof)
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"model": {}, "args": MakesFolder(proof)}, protocol=protocol))
    for name in ("zip.pt", "pickle.pt"):
        with pytest.raises(pickle.UnpicklingError):
            checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / name))
    with pytest.raises(pickle.UnpicklingError):
        checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "zip.pt")])
    assert not proof.exists()


def test_the_malicious_checkpoint_would_work(tmp_path):
    """Without this, the other tests could pass with a harmless file."""
    write_malicious(tmp_path / "zip.pt", tmp_path / "proof")
    torch.load(tmp_path / "zip.pt", weights_only=False)
    assert (tmp_path / "proof").is_dir()
