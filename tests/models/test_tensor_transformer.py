from argparse import Namespace

import pytest
import torch

from tests.helpers.language_models import make_language_model, make_task

PTB = {"layers": 3, "embed_dim": 256, "ffn_embed_dim": 2100, "head_dim": 40, "tokens_per_sample": 32}


@pytest.mark.parametrize("causal", [False, True])
def test_the_ptb_model_has_the_published_parameters(causal):
    """10,000 words in the published count; fairseq's dictionary holds <s> and <pad> besides."""
    with torch.device("meta"):
        model = make_language_model("tensor", size=10_002, causal=causal, **PTB)
    assert sum(p.numel() for p in model.parameters()) == 6_715_252


def test_the_wikitext_103_model_has_the_published_parameters_with_a_full_softmax():
    with torch.device("meta"):
        model = make_language_model("tensor", size=267_737, **PTB | {"layers": 6, "tokens_per_sample": 80})
    assert sum(p.numel() for p in model.parameters()) == 85_355_855


def test_all_layers_share_the_two_biases():
    model = make_language_model("tensor")
    assert [name for name, _ in model.named_parameters() if name.count("_bias")] == [
        "decoder.content_bias",
        "decoder.position_bias",
        "decoder.vocabulary.output_bias",
    ]


def test_settings_may_come_as_a_namespace_with_nothing_else():
    model = type(make_language_model("tensor")).build_model(Namespace(tokens_per_sample=8), make_task())
    assert model.max_positions() == 8


@pytest.mark.parametrize("adaptive", [{}, {"adaptive_softmax_cutoff": "30,60", "adaptive_input": True}])
def test_words_start_small_as_published_and_padding_at_zero(adaptive):
    vocabulary = make_language_model("tensor", size=200, embed_dim=64, **adaptive).decoder.vocabulary
    embedded = vocabulary.embed(torch.arange(2, 200)[None]) / vocabulary.scale
    assert 0.015 < embedded.std() < 0.025
    assert not vocabulary.embed(torch.tensor([[1]])).any()
