"""The numbers of the statistics probe, of one norm and one batch: each is defined, with its formula, in docs/probe.md.

Everything is over the batch's real tokens; what is compared with running statistics is counted as the norm counts it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normplugins.norms.group_scaling import scale_groups
from normplugins.norms.statistics import token_rows


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of a norm: x and y = norm(x), (T, B, C) or (N, C), and their gradients.

    ``grad_x`` is None where the norm's part of it is not known. ``running`` holds the statistics that the norm kept
    before this batch: ``running_mean``, ``running_var``, ``running_phi`` and ``nu``, each (C,), where it keeps them.
    """

    x: Tensor
    padding_mask: Tensor | None
    y: Tensor
    grad_y: Tensor
    grad_x: Tensor | None
    running: dict[str, Tensor]


@dataclass(frozen=True)
class Sums:
    """Per channel (C,), in float64, over ``count`` tokens: moments of z, and sums with the gradient g = dL/dy."""

    count: int
    mean: Tensor
    var: Tensor
    g: Tensor
    gg: Tensor
    gz: Tensor

    @property
    def quadratic_mean(self) -> Tensor:
        """Mean of z^2."""
        return self.var + self.mean.square()


def running_before(norm: nn.Module) -> dict[str, Tensor]:
    """Copies of the running statistics of ``norm``, for :class:`Pass`; empty where it keeps none."""
    names = ("running_mean", "running_var", "running_phi", "nu")
    return {name: getattr(norm, name).to(torch.float64, copy=True) for name in names if hasattr(norm, name)}


@torch.no_grad()
def measure(norm: nn.Module, seen: Pass) -> dict[str, Tensor]:
    """The numbers of docs/probe.md for one pass, as scalars in float64 on the device of x; empty without a token.

    No operation draws a random number, and nothing of the norm is changed.
    """
    dim = seen.x.size(-1)
    x, positions = _tokens(seen.x, seen.padding_mask)
    if not len(x):
        return {}
    g, y = (_tokens(tensor, seen.padding_mask)[0] for tensor in (seen.grad_y, seen.y))
    found = {"tokens": x.new_tensor(len(x), dtype=torch.float64)}
    if getattr(norm, "group_scaling", False):
        groups, eps = getattr(norm, "groups", 1), float(norm.eps)  # type: ignore[arg-type]
        factors = torch.rsqrt(x.view(len(x), groups, dim // groups).square().mean(-1) + eps)
        found |= {"group_scale_mean": factors.mean(), "group_scale_deviation": factors.std(correction=0)}
        x = scale_groups(x, groups, eps)
    mean = x.mean(0)
    var = (x - mean).square_().mean(0)
    sums = Sums(len(x), mean.double(), var.double(), *(_sum(g, other) for other in (None, g, x)))
    found |= _moments(sums) | _distances(sums, seen.running, positions if _counts(norm, "padding_filled") else len(x))
    found |= {"grad_output": torch.linalg.vector_norm(g), "pnv_bound_smaller": _pnv_bound_smaller(sums)}
    if seen.grad_x is not None:
        found["grad_input"] = torch.linalg.vector_norm(_tokens(seen.grad_x, seen.padding_mask)[0])
    weight, bias = (_per_channel(norm, name, x) for name in ("weight", "bias"))
    products = _sum(g, y) - (0 if bias is None else bias * sums.g)
    counts_padding = _counts(norm, "padding_in_backward") or _counts(norm, "padding_filled")
    products = products / (positions if counts_padding else len(x))
    means = sums.g / len(x) * (1 if weight is None else weight)
    found |= {"grad_mean": _size(means), "grad_product": _size(products)}
    if (nu := seen.running.get("nu")) is not None:
        found |= {"nu": _size(nu), "nu_distance": _size(products - nu)}
    return {name: value.double() for name, value in found.items()}


def _sum(g: Tensor, other: Tensor | None) -> Tensor:
    """Sum over tokens (C,) of g (N, C), or of its products with another (N, C), in float64."""
    return g.sum(0, dtype=torch.float64) if other is None else (g.double() * other.double()).sum(0)


def _moments(sums: Sums) -> dict[str, Tensor]:
    ratios = (sums.quadratic_mean / sums.var).sqrt()
    return {
        "mean": _size(sums.mean),
        "variance": _size(sums.var),
        "quadratic_mean": _size(sums.quadratic_mean),
        "psi_over_sigma": ratios[sums.var > 0].mean(),
    }


def _distances(sums: Sums, running: dict[str, Tensor], positions: int) -> dict[str, Tensor]:
    """Between the batch and the running statistics; ``positions`` is how many the norm's variance is over."""
    found = {}
    sigma = running["running_var"].sqrt() if "running_var" in running else None
    if "running_mean" in running:
        distance = sums.mean - running["running_mean"]
        found["mean_distance"] = _size(distance)
        if sigma is not None:
            found["mean_tid"] = distance.norm() / sigma.norm()
    if sigma is not None:
        var = sums.var * sums.count / max(positions - 1, 1)  # unbiased, as the norm keeps it
        found["variance_distance"] = _size(var - running["running_var"])
        found["deviation_tid"] = (var.sqrt() - sigma).norm() / sigma.norm()
    if "running_phi" in running:
        psi = running["running_phi"].sqrt()
        found["quadratic_mean_distance"] = _size(sums.quadratic_mean - running["running_phi"])
        found["psi_tid"] = (sums.quadratic_mean.sqrt() - psi).norm() / psi.norm()
    return found


def _pnv_bound_smaller(sums: Sums) -> Tensor:
    """Share of the channels that vary in which ||dL/dx||^2 of PN-V, with this z and g, is below that of BN."""
    psi2, var = sums.quadratic_mean, sums.var
    pnv = (sums.gg - sums.gz.square() / (sums.count * psi2)) / psi2
    bn = sums.gg - (sums.gz - sums.mean * sums.g).square() / (sums.count * var) - sums.g.square() / sums.count
    return (pnv < bn / var)[var > 0].double().mean()


def _tokens(x: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, int]:
    """The real tokens of x (T, B, C) or (N, C) as rows (N', C), in float32 at least; and how many positions x has."""
    rows, real = token_rows(x, padding_mask, x.size(-1))
    return (rows if real is None else rows[real.view(-1)]), len(rows)


def _per_channel(norm: nn.Module, name: str, x: Tensor) -> Tensor | None:
    """The norm's weight or bias (C,), in float64; None where it has none for each channel."""
    value = getattr(norm, name, None)
    return value.double() if isinstance(value, Tensor) and value.shape == x.shape[-1:] else None


def _counts(norm: nn.Module, switch: str) -> bool:
    """Whether the norm counts padding as this switch of its own says."""
    return bool(getattr(norm, switch, False))


def _size(values: Tensor) -> Tensor:
    """||values||_2 / d for the values of d channels: the paper's measure."""
    return values.norm() / len(values)
