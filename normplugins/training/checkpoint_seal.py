"""The seal of a checkpoint: the run that it belongs to, and a hash of its content."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

NOT_NEGATIVE = ("running_var", "running_phi", "window_phi")
"""Suffixes of the names of running statistics that cannot be negative."""

Identity = Mapping[str, str | int]
"""What identifies a run: the cell, the seed, and the digests of the settings and of the corpus."""


def seal(state: dict[str, Any]) -> None:
    """Put the hash of everything in a checkpoint into ``extra_state["seal"]``, beside the identity of its ``run``."""
    state.setdefault("extra_state", {}).setdefault("seal", {"run": {}})["sha256"] = digest(state)


def identity_of(state: Mapping[str, Any]) -> Identity:
    """Return the identity of the run that wrote a checkpoint; empty if the checkpoint does not say."""
    return dict((state.get("extra_state") or {}).get("seal", {}).get("run", {}))


def digest(state: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all values in a checkpoint, with their places, types and shapes, except the seal's hash."""
    result = hashlib.sha256()
    for place, value in _leaves(state, ""):
        if place == "/extra_state/seal/sha256":
            continue
        if isinstance(value, Tensor):
            result.update(f"{place} {value.dtype} {tuple(value.shape)}\n".encode())
            result.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            result.update(f"{place} {value!r}\n".encode())
    return result.hexdigest()


def find_damage(state: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the content of a checkpoint, as the end of a sentence, or None.

    Without a seal only the values are checked: weights, statistics and the optimizer's state must be finite, and
    running variances and mean squares must not be negative.
    """
    if (found := (state.get("extra_state") or {}).get("seal")) and found.get("sha256") != digest(state):
        return "its content has changed since it was written"
    for place, value in _leaves(state, ""):
        if not isinstance(value, Tensor) or not place.startswith(("/model/", "/last_optimizer_state/")):
            continue
        name = place.split("/", 2)[2]
        if value.is_floating_point() and not torch.isfinite(value).all():
            return f"{name} is not finite"
        if place.endswith(NOT_NEGATIVE) and (value < 0).any():
            return f"{name} is a mean of squares and has negative values"
    return None


def find_difference(state: Mapping[str, Any], identity: Identity) -> str | None:
    """Return how the run of a sealed checkpoint differs from ``identity``, as the end of a sentence, or None."""
    theirs = identity_of(state)
    if not theirs:
        return None
    differing = [key for key in identity if theirs.get(key) != identity[key]]
    return ", ".join(f"{key} {theirs.get(key)} there and {identity[key]} here" for key in differing) or None


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and value of everything inside nested dictionaries and lists."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}/{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{place}/{index}")
    else:
        yield place, value
