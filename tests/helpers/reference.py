"""The norms as plain loops over tokens in float64: the reference that the tests compare the modules with.

Each norm takes x as an (n, C) array of real tokens, without padding.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    out = np.empty_like(x)
    for i, token in enumerate(x):
        mean = sum(token) / len(token)
        var = sum((v - mean) ** 2 for v in token) / len(token)
        out[i] = (token - mean) / np.sqrt(var + eps) * weight + bias
    return out


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return np.array([token / np.sqrt(sum(v * v for v in token) / len(token) + eps) * weight for token in x])


def scale_groups(x: Array, groups: int, eps: float) -> Array:
    def scaled(part: Array) -> Array:
        return part / np.sqrt(sum(v * v for v in part) / len(part) + eps)

    return np.array([np.concatenate([scaled(part) for part in np.split(token, groups)]) for token in x])


def scale_groups_backward(x: Array, dz: Array, groups: int, eps: float) -> Array:
    """dL/dx from dL/dz, by the Jacobian of each group: dz_j/dx_k = r (1[j = k] - z_j z_k / width)."""
    dx = np.empty_like(x)
    for i, (token, gradient) in enumerate(zip(x, dz, strict=True)):
        parts = []
        for part, g in zip(np.split(token, groups), np.split(gradient, groups), strict=True):
            r = 1 / np.sqrt(sum(v * v for v in part) / len(part) + eps)
            parts.append(r * (np.eye(len(part)) - np.outer(r * part, r * part) / len(part)) @ g)
        dx[i] = np.concatenate(parts)
    return dx


def scale_norm(x: Array, g: float, eps: float) -> Array:
    """ScaleNorm; eps is added to the mean square, that is, dim * eps to the squared length."""
    return np.array([g * token / np.sqrt(sum(v * v for v in token) + len(token) * eps) for token in x])


def group_norm(x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
    def normalize(part: Array) -> Array:
        mean = sum(part) / len(part)
        return (part - mean) / np.sqrt(sum((v - mean) ** 2 for v in part) / len(part) + eps)

    return (
        np.array([np.concatenate([normalize(part) for part in np.split(token, groups)]) for token in x]) * weight + bias
    )


def instance_norm(sentence: Array, weight: Array, bias: Array, eps: float) -> Array:
    """InstanceNorm of one sentence (T, C) without padding."""
    out = np.empty_like(sentence)
    for c in range(sentence.shape[1]):
        channel = sentence[:, c]
        mu = sum(channel) / len(channel)
        var = sum((v - mu) ** 2 for v in channel) / len(channel)
        out[:, c] = weight[c] * (channel - mu) / np.sqrt(var + eps) + bias[c]
    return out


@dataclass
class MeanOnlyBatchNorm:
    dim: int
    momentum: float = 0.1
    mean: Array = field(init=False)

    def __post_init__(self) -> None:
        self.mean = np.zeros(self.dim)

    def train(self, x: Array, bias: Array) -> Array:
        mu = sum(x) / len(x)
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
        n = len(x)
        out = np.empty_like(x)
        for c in range(self.dim):
            mu = sum(x[:, c]) / n
            var = sum((v - mu) ** 2 for v in x[:, c]) / n
            out[:, c] = weight[c] * (x[:, c] - mu) / np.sqrt(var + self.eps) + bias[c]
            self.mean[c] = (1 - self.momentum) * self.mean[c] + self.momentum * mu
            self.var[c] = (1 - self.momentum) * self.var[c] + self.momentum * var * n / max(n - 1, 1)
        return out

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
        out = np.empty_like(x)
        for c in range(self.dim):
            phi = sum(v * v for v in x[:, c]) / len(x)
            out[:, c] = weight[c] * x[:, c] / np.sqrt(phi + self.eps) + bias[c]
            self.phi[c] = self.alpha * self.phi[c] + (1 - self.alpha) * phi
        return out

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
        n, psi = len(x), np.sqrt(self.phi + self.eps)
        x_hat = x / psi
        for c in range(self.dim):
            self.phi[c] = self.alpha * self.phi[c] + (1 - self.alpha) * sum(v * v for v in x[:, c]) / n
        x_tilde = np.stack([g[i] * weight - self.nu * x_hat[i] for i in range(n)])
        keep = 1 - self.alpha_backward
        gamma = sum(x_hat[i] * x_hat[i] for i in range(n)) / n
        lam = sum(g[i] * weight * x_hat[i] for i in range(n)) / n
        self.nu = self.nu * (1 - keep * gamma) + keep * lam
        return x_hat * weight + bias, x_tilde / psi, (g * x_hat).sum(0), g.sum(0)

    def evaluate(self, x: Array, weight: Array, bias: Array) -> Array:
        return weight * x / np.sqrt(self.phi + self.eps) + bias
