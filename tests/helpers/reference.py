"""The norms in NumPy and float64: the reference that the tests compare the modules with.

Each norm takes x as an (n, C) array of real tokens, without padding.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def scale_groups(x: Array, groups: int, eps: float) -> Array:
    parts = x.reshape(len(x), groups, -1)
    return (parts / np.sqrt((parts**2).mean(-1, keepdims=True) + eps)).reshape(x.shape)


def group_norm(x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
    parts = x.reshape(len(x), groups, -1)
    centred = parts - parts.mean(-1, keepdims=True)
    return (centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)).reshape(x.shape) * weight + bias


@dataclass
class MeanOnlyBatchNorm:
    dim: int
    momentum: float = 0.1
    mean: Array = field(init=False)

    def __post_init__(self) -> None:
        self.mean = np.zeros(self.dim)

    def train(self, x: Array, bias: Array) -> Array:
        mu = x.mean(0)
        self.mean = (1 - self.momentum) * self.mean + self.momentum * mu
        return x - mu + bias

    def evaluate(self, x: Array, bias: Array) -> Array:
        return x - self.mean + bias


@dataclass
class BatchNorm:
    dim: int
    eps: float = 1e-5
    momentum: float = 0.1
    mean: Array = field(init=False)
    var: Array = field(init=False)

    def __post_init__(self) -> None:
        self.mean, self.var = np.zeros(self.dim), np.ones(self.dim)

    def train(self, x: Array, weight: Array, bias: Array) -> Array:
        n, mu = len(x), x.mean(0)
        var = ((x - mu) ** 2).mean(0)
        self.mean = (1 - self.momentum) * self.mean + self.momentum * mu
        self.var = (1 - self.momentum) * self.var + self.momentum * var * n / max(n - 1, 1)
        return weight * (x - mu) / np.sqrt(var + self.eps) + bias

    def evaluate(self, x: Array, weight: Array, bias: Array) -> Array:
        return weight * (x - self.mean) / np.sqrt(self.var + self.eps) + bias


@dataclass
class PowerNormV:
    dim: int
    eps: float = 1e-5
    alpha: float = 0.9
    phi: Array = field(init=False)

    def __post_init__(self) -> None:
        self.phi = np.ones(self.dim)

    def train(self, x: Array, weight: Array, bias: Array) -> Array:
        phi = (x**2).mean(0)
        self.phi = self.alpha * self.phi + (1 - self.alpha) * phi
        return weight * x / np.sqrt(phi + self.eps) + bias

    def evaluate(self, x: Array, weight: Array, bias: Array) -> Array:
        return weight * x / np.sqrt(self.phi + self.eps) + bias


@dataclass
class PowerNormAlgorithm2:
    dim: int
    eps: float = 1e-5
    alpha: float = 0.9
    alpha_backward: float = 0.9
    phi: Array = field(init=False)
    nu: Array = field(init=False)

    def __post_init__(self) -> None:
        self.phi, self.nu = np.ones(self.dim), np.zeros(self.dim)

    def train(self, x: Array, weight: Array, bias: Array, g: Array) -> tuple[Array, Array, Array, Array]:
        """Return output, dL/dx, dL/dweight and dL/dbias of one forward and backward; psi^2 and nu are updated."""
        psi = np.sqrt(self.phi + self.eps)
        x_hat = x / psi
        self.phi = self.alpha * self.phi + (1 - self.alpha) * (x**2).mean(0)
        x_tilde = g * weight - self.nu * x_hat
        keep = 1 - self.alpha_backward
        self.nu = self.nu * (1 - keep * (x_hat**2).mean(0)) + keep * (g * weight * x_hat).mean(0)
        return x_hat * weight + bias, x_tilde / psi, (g * x_hat).sum(0), g.sum(0)

    def evaluate(self, x: Array, weight: Array, bias: Array) -> Array:
        return weight * x / np.sqrt(self.phi + self.eps) + bias
