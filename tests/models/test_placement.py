"""Where the norms stand: each placement against its equation, and through every path that computes a layer."""

import math

import pytest
import torch
from torch import nn

from normplugins.models.layers import Residual
from normplugins.models.placement import PLACEMENTS, deepnorm
from normplugins.utils.errors import UserError
from tests.helpers.language_models import make_language_model
from tests.helpers.models import make_batch, make_model

NAMES = tuple(PLACEMENTS)


def connection(name: str) -> Residual:
    cfg = make_model(placement=name).decoder.cfg
    residual = Residual(nn.Linear(8, 8), lambda: nn.LayerNorm(8), 0.0, cfg.placement_of("decoder_norm"))
    residual.norm.forward = lambda x, _mask: nn.functional.layer_norm(x, (8,))  # type: ignore[method-assign]
    if residual.output_norm is not None:
        residual.output_norm.forward = residual.norm.forward  # type: ignore[method-assign]
    return residual


@pytest.mark.parametrize("name", NAMES)
def test_a_sublayer_follows_the_equation(name: str) -> None:
    residual, x = connection(name), torch.randn(5, 3, 8)
    f = residual.sublayer

    def n(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, (8,))

    expected = {
        "pre": lambda: x + f(n(x)),
        "post": lambda: n(x + f(x)),
        "sandwich": lambda: x + n(f(n(x))),
        "peri": lambda: x + n(f(n(x))),
        "deepnorm": lambda: n(residual.scale * x + f(x)),
    }[name]()
    torch.testing.assert_close(residual(x, None), expected)


def test_deepnorms_scales_are_the_papers() -> None:
    """Table 2 of arXiv 2203.00555 for an encoder of 18 layers and a decoder of 6, and for a decoder alone."""
    encoder, decoder, alone = deepnorm(18, 6, encoder=True), deepnorm(6, 18), deepnorm(12, None)
    assert encoder.scale == pytest.approx(0.81 * (18**4 * 6) ** (1 / 16))
    assert encoder.gain == pytest.approx(0.87 * (18**4 * 6) ** (-1 / 16))
    assert (decoder.scale, decoder.gain) == pytest.approx(((3 * 6) ** 0.25, (12 * 6) ** -0.25))
    assert (alone.scale, alone.gain) == pytest.approx(((2 * 12) ** 0.25, (8 * 12) ** -0.25))


def test_deepnorm_scales_the_initial_weights_of_values_and_outputs_only() -> None:
    sizes = {"encoder_embed_dim": 128, "decoder_embed_dim": 128, "encoder_layers": 4, "decoder_layers": 4}
    model = make_model(placement="deepnorm", **sizes)
    gain = model.decoder.cfg.placement_of("decoder_norm").gain
    layer = model.decoder.layers[0]
    q, k, v = layer.self_attention.sublayer.qkv.weight.chunk(3)
    unscaled = math.sqrt(2 / (128 + 128))
    for weight, expected in (
        (q, 1.0), (k, 1.0), (v, gain), (layer.self_attention.sublayer.out.weight, gain),
        (layer.cross_attention.sublayer.q.weight, 1.0), (layer.cross_attention.sublayer.kv.weight[:128], 1.0),
        (layer.cross_attention.sublayer.kv.weight[128:], gain),
    ):  # fmt: skip
        assert weight.std().item() / unscaled == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_norms_stand_where_the_placement_says(name: str) -> None:
    model, placement = make_model(placement=name), PLACEMENTS[name]
    for stack in (model.encoder, model.decoder):
        assert (stack.final_norm is not None) == placement.pre_norm
        assert (stack.embedding_norm is not None) == placement.embeddings
        assert all((layer.feed_forward.output_norm is not None) == placement.output_norm for layer in stack.layers)
    assert make_language_model("transformer", placement=name).decoder.cfg.normalize_before == placement.pre_norm


@pytest.mark.parametrize("changes", [*({"placement": name} for name in NAMES), {"qk_norm": "rms"}], ids=str)
def test_decoding_step_by_step_gives_the_features_of_the_whole(changes: dict[str, str]) -> None:
    model = make_model(**changes, decoder_norm="rms").eval()
    batch = make_batch(0)
    encoder_out = model.encoder(batch["src_tokens"])
    whole = model.decoder.extract_features(batch["prev_output_tokens"], encoder_out)
    state: dict = {}
    for position in range(1, batch["prev_output_tokens"].size(1) + 1):
        tokens = batch["prev_output_tokens"][:, :position]
        step = model.decoder.extract_features(tokens, encoder_out, state)
        real = tokens[:, -1] != model.decoder.dictionary.pad()
        torch.testing.assert_close(step[real, 0], whole[real, position - 1])


def test_tensor_attention_refuses_deepnorms_initialization() -> None:
    with pytest.raises(UserError, match="softmax attention"):
        make_language_model("tensor", placement="deepnorm")
