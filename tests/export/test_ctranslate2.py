"""CTranslate2 translates as our beam search does."""

import pytest
import torch

from normplugins.utils.errors import UserError
from tests.export.search import SEARCH, ours, sentences
from tests.helpers.models import make_model, make_task, train

pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed")
from normplugins.export.ctranslate2 import Engine, write


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"encoder_norm": "ln", "decoder_norm": "ln"},
        {"encoder_norm": "rms", "decoder_norm": "ln", "activation_fn": "gelu"},
        {"encoder_norm": "ln", "decoder_norm": "rms", "normalize_before": False, "decoder_layers": 1},
        {"decoder_attention_heads": 4, "share_all_embeddings": False, "activation_fn": "swish"},
    ],
    ids=["ln", "rms", "post", "separate"],
)
def test_the_same_translations(tmp_path, settings):
    task = make_task()
    model = train(make_model(task=task, **settings), 60).eval()
    write(model, task, tmp_path)
    engine, expected = Engine(tmp_path, "float32", model, task), ours(model, task, sentences())
    found = engine(sentences(), SEARCH)
    assert [one[0]["tokens"].tolist() for one in found] == [one[0]["tokens"].tolist() for one in expected]
    words = task.source_dictionary.symbols
    for sentence, (best, *_) in zip(sentences(), expected, strict=True):
        source, target = [words[token] for token in sentence], [words[token] for token in best["tokens"][:-1]]
        (result,) = engine.translator.score_batch([source], [target])
        assert result.log_probs == pytest.approx(best["positional_scores"].tolist(), abs=1e-4)


def test_int8(tmp_path):
    task = make_task()
    model = train(make_model(task=task), 8).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    write(model, task, tmp_path, "int8")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    engine = Engine(tmp_path, "int8", model, task)
    assert engine.computes_in.startswith("int8")
    assert len(engine(sentences(), SEARCH)) == 12


@pytest.mark.parametrize(
    "settings",
    [{"encoder_norm": "pn"}, {"norm_groups": 2, "decoder_norm": "rms"}, {"placement": "sandwich"}, {"qk_norm": "rms"}],
)
def test_what_it_cannot_express(tmp_path, settings):
    with pytest.raises(UserError, match=r"CTranslate2 has no .* use --format onnx"):
        write(make_model(**settings), make_task(), tmp_path)
