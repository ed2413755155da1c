from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.transformer import TransformerModel
from omegaconf import OmegaConf

from benchmarks.stock import from_stock
from normplugins.models.import_checkpoint import _read, import_checkpoint
from normplugins.utils.errors import UserError
from tests.helpers.models import make_batch, make_task

GOLDEN = Path(__file__).parents[1] / "golden" / "released_checkpoint"


def read_golden() -> dict:
    state = _read(GOLDEN / "checkpoint.pt")
    return {name: state[name] for name in ("args", "model", "optimizer_history")}


def refused(state, tmp_path, match):
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=match) as error:
        import_checkpoint(tmp_path / "bad.pt", tmp_path / "out.pt")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.pt").exists()


def test_an_imported_checkpoint_gives_the_released_log_probabilities(tmp_path):
    import_checkpoint(GOLDEN / "checkpoint.pt", tmp_path / "new" / "checkpoint.pt")
    (model,), cfg, task = load_model_ensemble_and_task([str(tmp_path / "new" / "checkpoint.pt")])
    io_ = np.load(GOLDEN / "io.npz")
    inputs = [torch.from_numpy(io_[name]) for name in ("src_tokens", "src_lengths", "prev_output_tokens")]
    with torch.no_grad():
        log_probs = model.eval().get_normalized_probs(model(*inputs), log_probs=True)
    np.testing.assert_allclose(log_probs.numpy(), io_["log_probs"], rtol=0, atol=1e-5)
    assert cfg.model.encoder_norm == "pn"
    assert cfg.model.decoder_norm == "ln"
    assert (cfg.model.norm_warmup_updates, cfg.model.activation_dropout) == (20, 0.1)
    assert len(task.source_dictionary) == 112
    assert model.encoder.final_norm.num_updates.item() == 60


def test_the_dictionaries_may_lie_elsewhere(tmp_path):
    state = read_golden()
    state["args"].data = [str(GOLDEN)]
    torch.save(state, tmp_path / "checkpoint.pt")
    import_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "out.pt")
    _, _, task = load_model_ensemble_and_task([str(tmp_path / "out.pt")])
    assert len(task.target_dictionary) == 112


def test_a_destination_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/out.pt"):
        import_checkpoint(GOLDEN / "checkpoint.pt", tmp_path / "file" / "out.pt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*folder"):
        import_checkpoint(GOLDEN / "checkpoint.pt", tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"checkpoint of text\n\n", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_checkpoint(content, tmp_path):
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.pt was refused: it is damaged or not a checkpoint"):
        import_checkpoint(tmp_path / "bad.pt", tmp_path / "out.pt")


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"absent\.pt: No such file"):
        import_checkpoint(tmp_path / "absent.pt", tmp_path / "out.pt")


@pytest.mark.parametrize("state", [[1, 2], {"model": {}}, {"args": Namespace()}, {"args": {}, "model": {}}])
def test_something_else_that_torch_can_load(state, tmp_path):
    refused(state, tmp_path, "not a checkpoint of fairseq")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"encoder_norm_self": "mystery", "encoder_norm_ff": "mystery"},
            "encoder has mystery norms, .*one of power, layer, batch",
        ),
        ({"encoder_norm_self": "batch"}, "encoder has batch, power norms, but only a stack whose norms are"),
        ({"encoder_learned_pos": True}, "encoder_learned_pos=True has no counterpart"),
        ({"decoder_normalize_before": False}, "must both be pre-norm or both post-norm"),
        ({"encoder_layers": 4}, "model lacks encoder.layers.3"),
        ({"encoder_layers": 2}, "model has encoder.layers.2.*which norm_transformer does not have"),
        ({"encoder_ffn_embed_dim": 24}, r"encoder.layers.0.fc1.weight has shape \(48, 24\)"),
    ],
)
def test_settings_that_cannot_be_imported_are_named(changes, match, tmp_path):
    state = read_golden()
    vars(state["args"]).update(changes)
    refused(state, tmp_path, match)


def test_missing_settings_and_weights_are_named(tmp_path):
    state = read_golden()
    del state["args"].encoder_norm_self
    refused(state, tmp_path, "lack 'encoder_norm_self'")
    state = read_golden()
    del state["model"]["encoder.layers.1.self_attn.k_proj.weight"]
    refused(state, tmp_path, "model lacks encoder.layers.1.self_attn.k_proj.weight")
    state = read_golden()
    del state["model"]["encoder.embed_tokens.weight"]
    refused(state, tmp_path, "model lacks encoder.embed_tokens.weight")


EMBEDDINGS = (
    {"share_all_embeddings": True},
    {"share_decoder_input_output_embed": True},
    {"share_all_embeddings": False},
)


def stock_settings(**changes) -> Namespace:
    sizes = {"layers": 2, "embed_dim": 16, "ffn_embed_dim": 24, "attention_heads": 2}
    settings = Namespace(
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items()}
    )
    vars(settings).update(max_source_positions=64, max_target_positions=64, **changes)
    ARCH_CONFIG_REGISTRY["transformer_iwslt_de_en"](settings)
    return settings


def placed(pre: bool) -> dict[str, bool]:
    return {f"{side}_normalize_before": pre for side in ("encoder", "decoder")}


def make_stock(seed: int = 0, **changes) -> TransformerModel:
    """A stock model whose biases and norms are not the initial ones, which are all alike."""
    torch.manual_seed(seed)
    model = TransformerModel.build_model(stock_settings(**changes), make_task())
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    return model


def log_probs(model) -> torch.Tensor:
    batch = make_batch()
    lengths = batch["src_tokens"].ne(1).sum(1)
    with torch.no_grad():
        output = model.eval()(batch["src_tokens"], lengths, batch["prev_output_tokens"])
        return model.get_normalized_probs(output, log_probs=True)[batch["target"].ne(1)]


@pytest.mark.parametrize("embeddings", EMBEDDINGS, ids=("all", "decoder", "none"))
@pytest.mark.parametrize("pre", [True, False], ids=("pre", "post"))
def test_a_stock_model_and_ours_give_the_same_log_probabilities(embeddings, pre):
    stock = make_stock(**embeddings, **placed(pre))
    ours = from_stock(stock)
    torch.testing.assert_close(log_probs(ours), log_probs(stock), rtol=0, atol=2e-6)


def write_checkpoint(path: Path, **changes) -> TransformerModel:
    stock = make_stock(**changes)
    task = {"task": "translation", "source_lang": "de", "target_lang": "en", "data": str(path.parent)}
    namespace = Namespace(arch="transformer_iwslt_de_en", **task, **vars(stock_settings(**changes)))
    cfg = OmegaConf.to_container(convert_namespace_to_omegaconf(namespace), resolve=True, enum_to_str=True)
    torch.save({"args": None, "cfg": cfg, "model": stock.state_dict()}, path)
    for language in ("de", "en"):
        make_task().source_dictionary.save(str(path.parent / f"dict.{language}.txt"))
    return stock


def test_a_stock_checkpoint_is_imported(tmp_path):
    stock = write_checkpoint(tmp_path / "stock.pt", share_all_embeddings=True, dropout=0.2, **placed(True))
    import_checkpoint(tmp_path / "stock.pt", tmp_path / "ours.pt")
    (model,), cfg, _ = load_model_ensemble_and_task([str(tmp_path / "ours.pt")])
    torch.testing.assert_close(log_probs(model), log_probs(stock), rtol=0, atol=2e-6)
    assert (cfg.model.encoder_norm, cfg.model.decoder_norm, cfg.model.dropout) == ("ln", "ln", 0.2)
    assert cfg.model.max_target_positions == 64


def test_what_norm_transformer_has_not_is_named(tmp_path):
    stock = write_checkpoint(tmp_path / "stock.pt", encoder_learned_pos=True)
    with pytest.raises(UserError, match="the stock model: encoder_learned_pos=True has no counterpart"):
        from_stock(stock)
    with pytest.raises(UserError, match=r"stock\.pt: encoder_learned_pos=True has no counterpart"):
        import_checkpoint(tmp_path / "stock.pt", tmp_path / "ours.pt")
    assert not (tmp_path / "ours.pt").exists()
