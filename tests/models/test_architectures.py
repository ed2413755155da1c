"""The two ways to name a model: ``--arch`` on stock fairseq's command line, and a Hydra node."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from fairseq import models, options
from fairseq.data import indexed_dataset
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError

import normplugins
from normplugins.norms import NormConfig, build_norm
from normplugins.utils.errors import UserError
from tests.helpers.models import make_task

REPOSITORY = Path(normplugins.__file__).parent.parent


def from_command_line(*arguments):
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, ["data", *arguments])
    with torch.device("meta"):
        return models.build_model(convert_namespace_to_omegaconf(args).model, make_task())


@pytest.mark.parametrize(
    ("norm", "size", "dim", "inner", "heads", "dropout"),
    [("pn", "iwslt_de_en", 512, 1024, 4, 0.3), ("bn", "wmt_en_de", 512, 2048, 8, 0.1)],
)
def test_an_architecture_is_the_papers_placement_at_fairseqs_size(norm, size, dim, inner, heads, dropout):
    settings = Namespace()
    models.ARCH_CONFIG_REGISTRY[f"transformer_{norm}_{size}"](settings)
    with torch.device("meta"):
        model = models.ARCH_MODEL_REGISTRY[f"transformer_{norm}_{size}"].build_model(settings, make_task())
    assert type(model.encoder.final_norm) is type(build_norm(NormConfig(name=norm), 8))
    assert type(model.decoder.final_norm) is type(build_norm(NormConfig(name="ln"), 8))
    for stack in (model.encoder, model.decoder):
        assert len(stack.layers) == 6
        assert stack.layers[0].feed_forward.sublayer.fc1.weight.shape == (inner, dim)
        assert stack.layers[0].self_attention.sublayer.heads == heads
        assert stack.layers[0].self_attention.dropout == dropout


def test_the_command_line_overrides_the_architecture():
    model = from_command_line(
        *("--arch", "transformer_bn_iwslt_de_en", "--encoder-norm", "pn", "--norm-groups", "2", "--dropout", "0.2"),
        *("--encoder-layers", "3", "--norm-warmup-updates", "50", "--no-norm-double-update"),
    )
    norm = model.encoder.layers[0].self_attention.norm
    assert (norm.groups, norm.warmup_updates, norm.double_update) == (2, 50, False)
    assert len(model.encoder.layers) == 3
    assert model.decoder.layers[0].self_attention.dropout == 0.2


def test_pre_norm_can_be_switched_off():
    assert from_command_line("--arch", "transformer_pn_iwslt_de_en", "--no-normalize-before").encoder.final_norm is None
    assert from_command_line("--arch", "norm_transformer", "--normalize-before").encoder.final_norm is not None


def test_a_hydra_node_builds_the_model():
    node = OmegaConf.create({"_name": "norm_transformer", "encoder_norm": "pnv", "encoder_layers": 1})
    model = models.build_model(node, make_task())
    assert type(model.encoder.final_norm) is type(build_norm(NormConfig(name="pnv"), 8))
    assert len(model.encoder.layers) == 1
    assert len(model.decoder.layers) == 6


def test_a_key_that_is_no_setting_is_refused():
    node = OmegaConf.create({"_name": "norm_transformer", "encoder_nrom": "pn"})
    with pytest.raises(ConfigKeyError, match="encoder_nrom"):
        models.build_model(node, make_task())


def test_a_checkpoints_settings_that_are_gone_are_taken_where_they_said_nothing():
    normplugins.register()
    gone = {"ffn_init": "xavier", "decoder_final_norm": None, "adaptive_softmax_factor": 1.0}
    node = OmegaConf.create({"_name": "norm_transformer", "encoder_layers": 1, "decoder_layers": 1} | gone)
    assert len(models.build_model(node.copy(), make_task(), from_checkpoint=True).encoder.layers) == 1
    node.decoder_final_norm = "rms"
    with pytest.raises(UserError, match="decoder_final_norm=rms: this version has no such setting"):
        models.build_model(node, make_task(), from_checkpoint=True)


def test_a_stock_checkpoint_may_have_the_settings_that_are_gone():
    normplugins.register()
    parser = options.get_training_parser("language_modeling")
    args = options.parse_args_and_arch(parser, ["data", "--arch", "transformer_lm", "--decoder-layers", "1"])
    config = convert_namespace_to_omegaconf(args)
    assert config.model.adaptive_softmax_factor != 1
    assert len(models.build_model(config.model, make_task(), from_checkpoint=True).decoder.layers) == 1


@pytest.mark.slow
def test_stock_train_with_user_dir_learns_and_saves(tmp_path):
    """``--user-dir`` as fairseq does it: it imports the package, then each file of models/ once more."""
    task = make_task()
    for language in ("de", "en"):
        task.source_dictionary.save(str(tmp_path / f"dict.{language}.txt"))
        for split in ("train", "valid"):
            prefix = str(tmp_path / f"{split}.de-en.{language}")
            builder = indexed_dataset.make_builder(prefix + ".bin", "mmap", vocab_size=20)
            for seed in range(8):
                builder.add_item(torch.randint(4, 20, (5 + seed % 3,), generator=torch.Generator().manual_seed(seed)))
            builder.finalize(prefix + ".idx")
    compat = str(REPOSITORY / "normplugins" / "compat.py")
    start = f"import runpy; runpy.run_path({compat!r})['install'](); from fairseq_cli.train import cli_main; cli_main()"
    sizes = [f"--{side}-{name}" for side in ("encoder", "decoder") for name in ("layers=1", "embed-dim=8")]
    arguments = [
        *(str(tmp_path), "--user-dir", str(REPOSITORY / "normplugins"), "--arch", "transformer_pn_iwslt_de_en", *sizes),
        *("--share-all-embeddings", "--optimizer", "adam", "--lr", "0.01", "--max-tokens", "30", "--max-update", "3"),
        *("--cpu", "--save-dir", str(tmp_path / "run"), "--no-progress-bar"),
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", start, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    state = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)
    assert state["cfg"]["model"]["encoder_norm"] == "pn"
    assert state["model"]["encoder.final_norm.num_updates"].item() == 3
