"""fairseq on current versions of Python: it imports, its checkpoints load, and loading a file runs no code of it."""

import argparse
import pickle
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data import TokenBlockDataset, data_utils
from fairseq.data.huffman import HuffmanCodeBuilder
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.configs import CommonConfig, FairseqConfig
from fairseq.models import ARCH_CONFIG_REGISTRY
from omegaconf import OmegaConf

from normplugins.runs.compose import compose_config
from normplugins.runs.explain import sources_of
from tests.helpers.models import make_batch, make_task
from tests.helpers.runs import PATIENCE, REPOSITORY, MakesFolder, write_malicious


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.mark.slow
def test_fairseq_imports_without_output_knows_the_plugin_and_imports_wandb_when_it_uses_it():
    done = python(
        "import sys, normplugins\nfrom fairseq.logging.progress_bar import wandb\n"
        "import normplugins.cli; normplugins.register()\nfrom fairseq.models import MODEL_REGISTRY\n"
        "print('norm_transformer' in MODEL_REGISTRY, 'wandb' in sys.modules, wandb.init is sys.modules['wandb'].init)"
    )
    assert (done.stdout, done.stderr) == ("True False True\n", "")


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


@pytest.mark.slow
def test_a_checkpoint_with_a_namespace_loads_after_a_config_is_composed(tmp_path):
    """fairseq reads it through an interface that Hydra refuses in a process that keeps version 1.3 of its configs."""
    path = tmp_path / "checkpoint.pt"
    history = [{"criterion_name": "x", "optimizer_name": "x", "lr_scheduler_state": {}, "num_updates": 5}]
    args = argparse.Namespace(arch="transformer", task="translation", lr=[0.1])
    extra = {"train_iterator": {"epoch": 1}}
    content = {"args": args, "model": {"w": torch.ones(2)}, "optimizer_history": history, "extra_state": extra}
    torch.save(content | {"last_optimizer_state": None}, path)
    compose_config("demo")
    sources_of("demo", [])  # of `run demo --cfg`
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


def test_a_plugins_dataclasses_nest_as_fairseqs_own_do():
    @dataclass
    class Inner(FairseqDataclass):
        value: int = 1

    @dataclass
    class Outer(FairseqDataclass):
        inner: Inner = Inner(value=2)  # noqa: RUF009  (what fairseq does)

    assert Outer().inner.value == 2


def test_names_that_numpy_and_bitarray_have_dropped():
    lengths = np.array([1, 2, 3, 4, 5, 9])
    assert data_utils.get_buckets(lengths, 3).tolist() == [2, 4, 9]  # the lower neighbor of a percentile between two
    blocks = TokenBlockDataset([torch.tensor([4, 5, 2]), torch.tensor([6, 2])], [3, 2], None, 0, 2, break_mode="eos")
    assert [block.tolist() for block in blocks] == [[4, 5, 2], [6, 2]]
    coder = HuffmanCodeBuilder()
    coder.add_symbols("a", "b", "b", "c")
    code = coder.build_code()
    assert [node.symbol for node in code.decode(code.encode(["b", "c", "a"]))] == ["b", "c", "a"]


def test_a_stock_post_norm_transformer_computes_the_same_in_evaluation_as_in_training():
    task, options = make_task(), {"encoder_embed_dim": 16, "decoder_embed_dim": 16, "dropout": 0.0}
    arguments = argparse.Namespace(arch="transformer_iwslt_de_en", encoder_layers=1, decoder_layers=1, **options)
    ARCH_CONFIG_REGISTRY["transformer_iwslt_de_en"](arguments)
    trained, loaded = task.build_model(arguments), task.build_model(arguments)
    loaded.load_state_dict(trained.state_dict())  # a loaded model would use PyTorch's fused layer at evaluation
    batch = make_batch()
    inputs = (batch["src_tokens"], None, batch["prev_output_tokens"])
    torch.testing.assert_close(loaded.eval()(*inputs)[0], trained(*inputs)[0])


@pytest.mark.slow
def test_a_user_dir_registers_the_plugin_though_it_was_imported_before_fairseq():
    done = python(
        "import argparse, normplugins\n"
        "from fairseq import utils\n"
        "from fairseq.models import MODEL_REGISTRY\n"
        "assert 'norm_transformer' not in MODEL_REGISTRY\n"
        "utils.import_user_module(argparse.Namespace(user_dir='normplugins'))\n"
        "print('norm_transformer' in MODEL_REGISTRY)"
    )
    assert done.stdout == "True\n", done.stderr


def test_a_folder_named_fairseq_is_not_the_package(tmp_path):
    (tmp_path / "fairseq" / "fairseq").mkdir(parents=True)  # as a clone of its repository
    done = python(
        "import sys\n"
        f"sys.path = [{str(tmp_path)!r}, *(path for path in sys.path if not path.endswith('-packages'))]\n"
        "import normplugins, fairseq"
    )
    assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError: fairseq is not installed")


def test_a_missing_fairseq_is_missing_to_python_and_named_by_the_program():
    done = python(
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "from importlib.util import find_spec\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *place: None if name == 'fairseq' else find(name, *place)\n"
        "from normplugins.cli import main\n"
        "print(find_spec('fairseq'), main(['run', 'demo']))\n"
    )
    assert done.stdout == "None 1\n", done.stderr
    assert done.stderr.splitlines()[-1] == (
        "normplugins: fairseq is not installed; install it with: pip install --no-deps fairseq==0.12.2"
    )
