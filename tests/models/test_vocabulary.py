import math

import pytest
import torch

from tests.models.helpers import PAD
from tests.models.language_models import MODELS, lm_loss, log_probs, make_language_model, make_segments

ADAPTIVE = {"adaptive_softmax_cutoff": "6,12", "adaptive_softmax_factor": 2.0, "size": 24}
EACH_MODEL = pytest.mark.parametrize("kind", MODELS)


@EACH_MODEL
@pytest.mark.parametrize("tied", [True, False])
def test_probabilities_are_of_words_alone(kind, tied):
    """fairseq's <s> and <pad>, which no text has, get none."""
    model = make_language_model(kind, tie_embeddings=tied).eval()
    probs = log_probs(model, make_segments()[:, :6]).exp()
    torch.testing.assert_close(probs.sum(-1), torch.ones(probs.shape[:-1]))
    assert not probs[..., :2].any()
    assert (probs[..., 2:] > 0).all()


def test_tied_embeddings_are_one_matrix():
    tied, untied = (
        make_language_model("transformer", tie_embeddings=tied).decoder.vocabulary for tied in (True, False)
    )
    assert tied.output is tied.embeddings
    assert untied.output is not untied.embeddings
    count = [sum(p.numel() for p in vocabulary.parameters()) for vocabulary in (tied, untied)]
    assert count[1] - count[0] == 18 * 16


def test_padding_has_no_embedding():
    vocabulary = make_language_model("transformer").decoder.vocabulary
    embedded = vocabulary.embed(torch.tensor([[5, PAD, 2]]))
    assert not embedded[0, 1].any()
    torch.testing.assert_close(embedded[0, 0], vocabulary.embeddings[3] * math.sqrt(16))
    torch.testing.assert_close(embedded[0, 2], vocabulary.embeddings[0] * math.sqrt(16))


@EACH_MODEL
@pytest.mark.parametrize("adaptive_input", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_an_adaptive_softmax_gives_probabilities_and_gradients(kind, adaptive_input, tied):
    model = make_language_model(kind, adaptive_input=adaptive_input, tie_embeddings=tied, **ADAPTIVE)
    segments = make_segments(batch=32, size=24)
    probs = log_probs(model, segments[:, :6]).exp()
    assert probs.size(-1) == 24
    torch.testing.assert_close(probs.sum(-1), torch.ones(probs.shape[:-1]))
    lm_loss(model, segments).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


def test_adaptive_input_and_softmax_share_their_embeddings_when_tied():
    counts = [
        sum(
            p.numel()
            for p in make_language_model("tensor", adaptive_input=True, tie_embeddings=tied, **ADAPTIVE).parameters()
        )
        for tied in (True, False)
    ]
    shared = 6 * 16 + 6 * 8 + 12 * 4 + (8 + 4) * 16
    assert counts[1] - counts[0] == shared
