"""Products by oneDNN are those of torch.nn.Linear up to rounding, in value and gradients."""

import pytest
import torch
from torch import nn

from normplugins.models import linear
from normplugins.models.linear import Linear, by_onednn


@pytest.fixture(autouse=True)
def with_onednn(monkeypatch):
    """As on a processor where oneDNN is faster; its products are right on every one."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: True)


def both(bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    ours, plain = Linear(128, 256, bias, dtype=dtype), nn.Linear(128, 256, bias, dtype=dtype)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(160, 128), (20, 8, 128)])
def test_values_and_gradients(shape, bias):
    found = []
    for module in both(bias):
        x = torch.randn(shape, generator=torch.manual_seed(1)).requires_grad_()
        y = module(x)
        y.mul(torch.arange(256.0)).sum().backward()
        with torch.inference_mode():
            again = module(x)
        found.append([y.detach(), again, x.grad, *(each.grad for each in module.parameters())])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5 * plain.abs().max().item())


def test_a_transposed_input_and_an_input_without_gradient():
    ours, plain = both()
    x = torch.randn(8, 20, 128).transpose(0, 1)
    torch.testing.assert_close(ours(x), plain(x))
    ours(x).sum().backward()
    plain(x).sum().backward()
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad, rtol=1e-5, atol=1e-4)


def test_a_narrow_model_stays_with_pytorch():
    assert by_onednn(torch.ones(4096, 128), torch.ones(800, 128))
    assert not by_onednn(torch.ones(4096, 64), torch.ones(800, 64))


def test_other_products_are_pytorchs_own():
    ours, plain = both()
    assert torch.equal(ours(torch.ones(2, 128)), plain(torch.ones(2, 128)))  # too small
    ours, plain = both(dtype=torch.float64)
    assert torch.equal(ours(torch.ones(160, 128).double()), plain(torch.ones(160, 128).double()))
    ours, plain = both()
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(torch.ones(160, 128)).dtype == torch.bfloat16
