"""Normalizations for sequences, in plain PyTorch: one file per idea, each found here by itself.

    from normplugins.norms import NormConfig, build_norm
    norm = build_norm(NormConfig(name="pn", groups=4, warmup_updates=8000), dim=512)
    y = norm(x, padding_mask)  # x (T, B, C) or (N, C); padding_mask (B, T) or (N,), True = padding, or None

To add a norm, put a file here with a module decorated by :func:`register_norm`, and a ``configs/norm/NAME.yaml``. A
norm that lives in another package registers itself the same way, when that package is imported: by anybody, or by us if
it is installed and names its module as an entry point of the group ``normplugins.norms``.
"""

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from normplugins.norms.registry import (
    NormConfig,
    build_norm,
    has_kernels,
    has_statistics,
    known_norms,
    register_norm,
    resolve_norm,
    sees_sentence,
    settings_read,
)
from normplugins.norms.statistics import end_update, reestimate, running_statistics, using_batch_statistics

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
for _entry in entry_points(group=__name__):
    import_module(_entry.module)

__all__ = [
    "NormConfig",
    "build_norm",
    "end_update",
    "has_kernels",
    "has_statistics",
    "known_norms",
    "reestimate",
    "register_norm",
    "resolve_norm",
    "running_statistics",
    "sees_sentence",
    "settings_read",
    "using_batch_statistics",
]
