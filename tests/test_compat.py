"""fairseq on today's Python: it imports, its checkpoints load, and nothing in a file is run."""

import argparse
import pickle
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch

from normplugins import compat  # noqa: F401
from tests.helpers.runs import PATIENCE, REPOSITORY, MakesFolder, write_malicious

# isort: split
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import CommonConfig, FairseqConfig
from omegaconf import OmegaConf


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE
    )


def test_fairseq_imports_without_a_word_and_knows_the_plugin():
    done = python(
        "import normplugins.cli, normplugins; normplugins.register()\n"
        "from fairseq.models import MODEL_REGISTRY; print('norm_transformer' in MODEL_REGISTRY)"
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_norms_alone_need_no_fairseq():
    done = python("import sys, normplugins.norms; print('fairseq' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


def test_nested_defaults_stay_instances():
    """What a factory in their place would break: each nested section is a config of its own."""
    config = FairseqConfig()
    assert isinstance(config.common, CommonConfig)
    assert OmegaConf.structured(FairseqConfig).common.seed == 1
    assert hash(CommonConfig()) == hash(CommonConfig())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="older Pythons refuse lists only")
def test_other_packages_dataclasses_are_as_strict_as_before():
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


def test_checkpoint_with_a_namespace_loads(tmp_path):
    path = tmp_path / "checkpoint.pt"
    history = [{"criterion_name": "x", "optimizer_name": "x", "lr_scheduler_state": {}, "num_updates": 5}]
    args = argparse.Namespace(arch="transformer", task="translation", lr=[0.1])
    extra = {"train_iterator": {"epoch": 1}}
    content = {"args": args, "model": {"w": torch.ones(2)}, "optimizer_history": history, "extra_state": extra}
    torch.save(content | {"last_optimizer_state": None}, path)
    # in a process of its own: fairseq reads it through an interface that Hydra refuses after composing a config of 1.3
    done = python(
        "from normplugins import compat; from fairseq.checkpoint_utils import load_checkpoint_to_cpu\n"
        f"state = load_checkpoint_to_cpu({str(path)!r}, {{'lr': [0.2]}})\n"
        "print(state['cfg'].optimization.lr, state['model']['w'].tolist())"
    )
    assert done.stdout == "[0.2] [1.0, 1.0]\n", done.stderr


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
    """What the other tests hold back is real."""
    write_malicious(tmp_path / "zip.pt", tmp_path / "proof")
    torch.load(tmp_path / "zip.pt", weights_only=False)
    assert (tmp_path / "proof").is_dir()
