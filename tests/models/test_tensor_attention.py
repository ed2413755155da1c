from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from normplugins.models.layers import Residual
from normplugins.models.placement import PLACEMENTS
from normplugins.models.tensor_attention import BLOCK, TensorAttention, contract
from normplugins.norms import build_norm
from tests.helpers.memory import Largest

GOLDEN = Path(__file__).parents[1] / "golden"
CAUSAL = pytest.mark.parametrize("causal", [False, True], ids=["as published", "causal"])


@pytest.mark.parametrize("cores", [1, 2])
def test_it_is_the_published_one(cores):
    golden = {
        key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f"tensor_attention_core{cores}.npz").items()
    }
    x = golden["w"].requires_grad_()
    length, batch, dim = x.shape
    attention = TensorAttention(dim, golden["r_w_bias"].numel(), length, cores, causal=False)
    layer = Residual(attention, lambda: build_norm("ln", dim), 0.0, PLACEMENTS["post"]).double()
    names = {"qkv_net": "sublayer.qkv", "r_net": "sublayer.position", "o_net": "sublayer.out", "layer_norm": "norm"}
    state = {"sublayer.cores": golden["param_core_value"]}
    for theirs, ours in names.items():
        state |= {
            key.replace(f"param_{theirs}", ours): value
            for key, value in golden.items()
            if key.startswith(f"param_{theirs}")
        }
    layer.load_state_dict(state)
    padding, real = torch.zeros(batch, length, dtype=torch.bool), torch.ones(batch, length, 1, dtype=torch.bool)
    y = layer(x, padding, real, golden["r"][:, 0], golden["r_w_bias"], golden["r_r_bias"])
    torch.testing.assert_close(y, golden["y"], rtol=0, atol=1e-9)
    (gradient,) = torch.autograd.grad(y, x, golden["g"])
    torch.testing.assert_close(gradient, golden["gw_input"], rtol=0, atol=1e-9)


def make_tensors(length, segment=None, batch=2, head_dim=3, dim=5, seed=0):
    segment = segment or length
    generator = torch.Generator().manual_seed(seed)
    shapes = dict.fromkeys("abkv", (batch, length, head_dim)) | {
        "r": (segment, head_dim),
        "weight": (dim, segment, segment),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for name, shape in shapes.items()
    }


def plain(a, b, k, r, v, weight, causal):
    """The formula itself: the reference for ``contract``, with the same arguments."""
    time, segment = a.size(1), weight.size(1)
    k, v = F.pad(k, (0, 0, 0, segment - time)), F.pad(v, (0, 0, 0, segment - time))
    t = torch.einsum("bih,bjh,bkh->bijk", a, k, v) + torch.einsum("bih,jh,bkh->bijk", b, r, v)
    if causal:
        later = torch.arange(segment, device=a.device) > torch.arange(time, device=a.device)[:, None]
        t = t.masked_fill(later[:, :, None] | later[:, None], 0)
    return torch.einsum("bijk,djk->bid", t, weight)


@CAUSAL
@settings(max_examples=12, deadline=None)
@given(length=st.integers(1, 2 * BLOCK + 3), missing=st.integers(0, 3), seed=st.integers(0, 99))
def test_every_order_of_summation_gives_the_same_output_and_gradients(causal, length, missing, seed):
    tensors = make_tensors(length, length + missing, seed=seed)
    expected, found = plain(**tensors, causal=causal), contract(**tensors, causal=causal)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    g = torch.randn_like(expected)
    inputs = list(tensors.values())
    for mine, theirs in zip(
        torch.autograd.grad(found, inputs, g, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(expected, inputs, g, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@CAUSAL
def test_nothing_of_l_by_l_by_d_head_is_ever_held(causal):
    """At the WikiText-103 sizes and a batch of 60, both passes."""
    with torch.device("meta"):
        tensors = {name: torch.empty(60, 80, 40, requires_grad=True) for name in "abkv"}
        tensors |= {
            "r": torch.empty(80, 40, requires_grad=True),
            "weight": torch.empty(256, 80, 80, requires_grad=True),
        }
    with Largest() as plainly:
        plain(**tensors, causal=causal).sum().backward()
    with Largest() as ours:
        contract(**tensors, causal=causal).sum().backward()
    assert plainly.numbers >= 60 * 80 * 80 * 80
    assert ours.numbers < 60 * 80 * 80 * 40 / 2


def test_a_causal_query_depends_on_no_later_token_to_the_bit():
    length = 2 * BLOCK + 3
    tensors = {name: tensor.float() for name, tensor in make_tensors(length).items()}
    expected = contract(**tensors, causal=True)
    for time in (0, 1, BLOCK - 1, BLOCK, length - 2):
        changed = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        for name in "abkv":
            changed[name][:, time + 1 :] = torch.randn_like(changed[name][:, time + 1 :])
        found = contract(**changed, causal=True)
        assert torch.equal(found[:, : time + 1], expected[:, : time + 1])
        assert not torch.equal(found[:, time + 1 :], expected[:, time + 1 :])


@CAUSAL
def test_padding_is_as_if_it_were_not_there(causal):
    torch.manual_seed(0)
    attention = TensorAttention(8, 4, 6, cores=2, causal=causal)
    x, positions, bias = torch.randn(6, 2, 8), torch.randn(6, 8), torch.randn(2, 4)
    real = torch.ones(2, 6, 1, dtype=torch.bool)
    real[0, 4:] = False
    y = attention(x, real, positions, *bias)
    alone = attention(x[:4, :1], real[:1, :4], positions, *bias)
    torch.testing.assert_close(y[:4, :1], alone)
