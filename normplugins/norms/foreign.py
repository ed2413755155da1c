"""Finds the LayerNorms and RMSNorms in models of other packages, and tests what they compute."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = ("eps", "variance_epsilon", "epsilon")
"""names of the attribute that holds eps in PyTorch's and Hugging Face's norms"""


@dataclass
class ForeignNorm:
    """A norm of another package, which computes weight z + bias, where z is x normalized with eps."""

    name: str
    module: nn.Module
    dim: int
    weight: Tensor | None
    bias: Tensor | None
    eps: float | None


def find_norms(model: nn.Module, only: Callable[[str], bool] | None) -> tuple[list[ForeignNorm], dict[str, str]]:
    """Return the norms to replace and, for each norm that cannot be replaced, its name and the reason."""
    found: list[ForeignNorm] = []
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        if not name or not _named_as_norm(module) or (only and not only(name)):
            continue
        try:
            found.append(_read(name, module))
        except ValueError as error:
            left[name] = str(error)
    return found, left


def _named_as_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm | nn.RMSNorm) or type(module).__name__.endswith(("LayerNorm", "RMSNorm"))


@torch.no_grad()
def _read(name: str, module: nn.Module) -> ForeignNorm:
    """Test what a norm computes and describe it; raise ValueError unless it normalizes over a token's channels."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    shape: tuple[int, ...] = tuple(getattr(module, "normalized_shape", ()) or getattr(weight, "shape", ()))
    if len(shape) != 1:
        raise ValueError(f"it normalizes over {len(shape)} dimensions" if shape else "its channels are not known")
    eps = next((each for key in EPS if isinstance(each := getattr(module, key, None), float)), None)
    if eps is None and isinstance(module, nn.RMSNorm):  # PyTorch's default; it normalizes half precision in float32
        double = weight is not None and weight.dtype == torch.float64
        eps = torch.finfo(torch.float64 if double else torch.float32).eps
    norm = ForeignNorm(name, module, shape[0], weight, bias, eps)
    if type(module) not in (nn.LayerNorm, nn.RMSNorm):
        norm.weight = _tested_weight(norm)
    return norm


def _tested_weight(norm: ForeignNorm) -> Tensor | None:
    """Return the weight w for which the norm computes w z + bias, where z is x after a plain LayerNorm or RMSNorm.

    Some classes store w - 1. Raises ValueError if the norm computes something else.
    """
    name, stored = type(norm.module).__name__, norm.weight
    if stored is not None and stored.is_meta:
        raise ValueError(f"{name} cannot be tested on the meta device; swap norms after loading the weights")
    x = torch.randn(3, norm.dim, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    x = x if stored is None else x.to(stored.device)
    try:
        y = copy.deepcopy(norm.module).float().eval()(x)
    except Exception as error:
        raise ValueError(f"{name} cannot be called with x alone: {error}") from error
    shift = 0 if norm.bias is None else norm.bias.float()
    for normalize in (F.layer_norm, F.rms_norm):
        z = normalize(x, (norm.dim,), eps=norm.eps or 1e-5)
        for weight in (None,) if stored is None else (stored, 1 + stored):
            expected = z * (1 if weight is None else weight.float()) + shift
            if isinstance(y, Tensor) and y.shape == x.shape and torch.allclose(y, expected, rtol=1e-4, atol=1e-4):
                return weight
    raise ValueError(f"{name} computes neither LayerNorm nor RMSNorm of a token's channels")
