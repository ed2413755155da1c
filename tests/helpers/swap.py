"""Small models of PyTorch and Hugging Face whose norms the tests replace, and a batch for them."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normplugins.norms import swap_norms

DIM = 16


def encoder(batch_first: bool = True, norm_first: bool = False, layers: int = 2) -> nn.TransformerEncoder:
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(DIM, 2, 32, 0.0, batch_first=batch_first, norm_first=norm_first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # which settings use no nested tensors
        model = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(DIM)).double()
    for p in model.parameters():
        p.data.add_(torch.rand_like(p) / 4)
    return model


def swap(model: nn.Module, name: str, **settings: Any) -> Any:
    """``swap_norms`` without the warnings for some norms."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return swap_norms(model, name, **settings)


def batch() -> tuple[Tensor, Tensor]:
    """x (B, T, C) and its padding mask (B, T)."""
    x = torch.randn(3, 5, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[1, 3:] = mask[2, 1:] = True
    return x, mask


def hugging_face(kind: str, **settings: Any) -> Any:
    """A tiny model of random weights, from its config."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    sizes = {"hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(vocab_size=40, pad_token_id=0, **sizes, **settings)
    return transformers.AutoModel.from_config(config).double().eval()
