import math

import pytest
import torch
from fairseq.modules import AdaptiveInput, SinusoidalPositionalEmbedding

from normplugins.models.embeddings import SinusoidalPositions, positions_from_the_end
from normplugins.utils.errors import UserError
from tests.helpers.language_models import MODELS, lm_loss, log_probs, make_language_model, make_segments
from tests.helpers.models import PAD


@pytest.mark.parametrize("dim", [4, 16, 17])
def test_they_are_fairseqs(dim):
    tokens = torch.tensor([[5, 6, 7, 2], [1, 1, 5, 2], [5, 2, 1, 1]])
    expected = SinusoidalPositionalEmbedding(dim, 1, 16)(tokens)
    torch.testing.assert_close(SinusoidalPositions(dim, 1, 12)(tokens), expected)


def test_a_sequence_of_more_than_the_greatest_length_is_refused():
    positions = SinusoidalPositions(8, 1, 12)
    assert positions(torch.full((1, 12), 5)).shape == (1, 12, 8)
    with pytest.raises(UserError, match="13 tokens, but the model takes at most 12"):
        positions(torch.full((1, 13), 5))


def test_positions_from_the_end_count_down_to_the_last_token():
    table = positions_from_the_end(4, 6)
    assert torch.equal(table[-1], torch.tensor([0.0, 0, 0, 1, 1, 1]))
    for row, distance in enumerate((3, 2, 1, 0)):
        angles = distance / 10_000 ** (torch.tensor([0, 2, 4]) / 6)
        torch.testing.assert_close(table[row], torch.cat([angles.sin(), angles.cos()]))


ADAPTIVE = {"adaptive_softmax_cutoff": "6,12", "size": 24}
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


def test_embedding_in_clusters_reads_no_value_back_from_the_device():
    vocabulary = make_language_model("transformer", adaptive_input=True, **ADAPTIVE).decoder.vocabulary.to("meta")
    vocabulary.embed(torch.zeros(2, 3, dtype=torch.long, device="meta"))  # reading one raises


def test_embeddings_in_clusters_are_those_of_fairseqs_own_module():
    embed = make_language_model("transformer", adaptive_input=True, **ADAPTIVE).decoder.vocabulary.adaptive_input
    words = torch.arange(24).view(4, 6)
    torch.testing.assert_close(embed(words), AdaptiveInput.forward(embed, words))


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


@EACH_MODEL
@pytest.mark.parametrize("tied", [True, False])
def test_the_adaptive_loss_counts_every_word(kind, tied):
    """In every cluster; fairseq's own leaves out the one that has padding's index within a later cluster."""
    model = make_language_model(kind, adaptive_input=True, tie_embeddings=tied, **ADAPTIVE)
    words = torch.arange(2, 24).view(-1, 1)
    segments = torch.cat([words, words.flip(0)], dim=1)  # each word is read and predicted once
    expected = log_probs(model, segments[:, :1])[:, 0].gather(1, segments[:, 1:])
    torch.testing.assert_close(lm_loss(model, segments), -expected.mean().view(1))
    padded = torch.cat([segments, torch.full_like(words, PAD)], dim=1)
    torch.testing.assert_close(lm_loss(model, padded), lm_loss(model, segments))


@EACH_MODEL
@pytest.mark.parametrize("tied", [True, False])
def test_clusters_without_a_word_have_a_gradient_of_zero(kind, tied):
    """Not none, for which DistributedDataParallel would wait; and the loss is that of the words there are."""
    model = make_language_model(kind, adaptive_input=True, tie_embeddings=tied, **ADAPTIVE)
    segments = make_segments(size=6)
    loss = lm_loss(model, segments)
    expected = log_probs(model, segments[:, :-1]).gather(2, segments[:, 1:, None])
    torch.testing.assert_close(loss, -expected.mean().view(1))
    loss.backward()
    absent = [*model.decoder.adaptive_softmax.tail, *model.decoder.vocabulary.adaptive_input.embeddings[1:]]
    assert not any(p.grad.any() for module in absent for p in module.parameters())
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_an_adaptive_softmax_has_no_dropout_of_its_own():
    """The stack's output has it already."""
    softmax = make_language_model("tensor", dropout=0.9, **ADAPTIVE).decoder.adaptive_softmax.train()
    features, words = torch.randn(2, 6, 16), torch.arange(2, 14).view(2, 6)
    for once, again in zip(softmax(features, words)[0], softmax(features, words)[0], strict=True):
        assert torch.equal(once, again)


def test_nothing_is_left_as_it_was_found_in_memory(monkeypatch):
    """fairseq's adaptive modules keep a buffer that they never set."""
    monkeypatch.setattr(torch, "FloatTensor", lambda size: torch.full((size,), math.nan))
    model = make_language_model("tensor", adaptive_input=True, **ADAPTIVE)
    assert [name for name in model.state_dict() if name.endswith("_float_tensor")]
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_adaptive_input_and_softmax_share_their_embeddings_when_tied():
    counts = [
        sum(
            p.numel()
            for p in make_language_model("tensor", adaptive_input=True, tie_embeddings=tied, **ADAPTIVE).parameters()
        )
        for tied in (True, False)
    ]
    shared = 24 * 16 + 2 * 16 * 16
    assert counts[1] - counts[0] == shared
