from argparse import Namespace
from pathlib import Path

import pytest
import torch

import normplugins.models  # noqa: F401  (first: it lets fairseq import)

# isort: split
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.transformer import TransformerModel
from omegaconf import OmegaConf

from normplugins.models.import_checkpoint import import_checkpoint
from normplugins.models.stock import from_stock, load_into_stock
from normplugins.utils.errors import UserError
from tests.helpers.models import make_batch, make_model, make_task

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


def test_the_gradients_are_the_same_too():
    stock = make_stock(share_all_embeddings=True, dropout=0.0, **placed(True))
    ours, batch = from_stock(stock), make_batch()
    for model in (stock, ours):
        model.train()
        logits, _ = model(batch["src_tokens"], batch["src_tokens"].ne(1).sum(1), batch["prev_output_tokens"])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["target"].flatten(), ignore_index=1).backward()
    norms = [model.decoder.embed_tokens.weight.grad for model in (stock, ours)]
    torch.testing.assert_close(norms[1], norms[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pre", [True, False], ids=("pre", "post"))
def test_and_back(pre):
    ours = make_model(decoder_norm="ln", normalize_before=pre)
    stock = make_stock(share_all_embeddings=True, **placed(pre))
    load_into_stock(ours, stock)
    torch.testing.assert_close(log_probs(stock), log_probs(ours), rtol=0, atol=2e-6)


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
