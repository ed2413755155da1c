"""Our beam search over ONNX graphs finds what it finds with the model."""

import pytest
import torch
from omegaconf import OmegaConf

from normplugins.norms.registry import has_statistics
from normplugins.utils.errors import UserError
from tests.export.search import SEARCH, ours, sentences
from tests.helpers.models import both_stacks, make_model, make_task, randomize
from tests.helpers.norms import NORMS

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
from normplugins.export.onnx import Engine, write

# In pre-norm, norms with statistics fold into linear maps before the export, which tests/models/test_fold.py tests.
MODELS = {norm: both_stacks(norm) for norm in NORMS if norm in ("bn", "pn", "weight") or not has_statistics(norm)} | {
    "post": {"encoder_norm": "bn", "decoder_norm": "pn_alg2", "normalize_before": False},
    "post, moving windows": {"encoder_norm": "mabn", "decoder_norm": "un", "normalize_before": False},
    "peri": {"placement": "peri", "qk_norm": "rms", "activation_fn": "gelu"},
    "deepnorm": {"placement": "deepnorm", "decoder_attention_heads": 4, "share_all_embeddings": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_same_hypotheses(tmp_path, name):
    task = make_task()
    model = randomize(make_model(task=task, encoder_layers=1, decoder_layers=2, **MODELS[name]))
    write(model, task, tmp_path)
    expected = ours(model, task, sentences())
    for parameter in model.parameters():
        parameter.data.zero_()  # the graphs translate, not the model
    found = Engine(tmp_path, "float32", model, task)(sentences(), SEARCH)
    for one, other in zip(expected, found, strict=True):
        assert [each["tokens"].tolist() for each in one] == [each["tokens"].tolist() for each in other]
        for each, same in zip(one, other, strict=True):
            torch.testing.assert_close(each["positional_scores"], same["positional_scores"], rtol=0, atol=1e-4)


def test_a_beam_that_is_too_wide(tmp_path):
    task = make_task()
    model = make_model(task=task, encoder_layers=1, decoder_layers=1).eval()
    write(model, task, tmp_path)
    with pytest.raises(UserError, match="beam of 10 is too wide for a vocabulary of 20"):
        Engine(tmp_path, "float32", model, task)(sentences(), OmegaConf.merge(SEARCH, {"beam": 10}))
