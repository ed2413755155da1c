"""Normalizations for sequences in plain PyTorch, one file per norm.

    from normplugins.norms import NormConfig, build_norm
    norm = build_norm("pn", 512, groups=4)  # or build_norm(NormConfig(name="pn", groups=4), dim=512)
    y = norm(x, padding_mask)  # x (T, B, C) or (N, C); padding_mask (B, T) or (N,), True = padding, or None

To add a norm, put a file here with a settings dataclass and a module decorated by :func:`register_norm`; the registry
finds it, and its settings become options on every command line. A norm in another package registers itself in the same
way. If that package names the norm's module as an entry point of the group ``normplugins.norms``, importing
``normplugins.norms`` also imports that module.
"""

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from normplugins.norms.mask_hooks import using_padding_mask
from normplugins.norms.registry import (
    NormConfig,
    all_settings,
    build_norm,
    has_final_warmup,
    has_statistics,
    known_norms,
    register_norm,
    sees_sentence,
    updates_in_backward,
)
from normplugins.norms.settings import EpsSettings, GroupScalingSettings, KernelSettings, RunningSettings, setting
from normplugins.norms.statistics import (
    RunningNorm,
    end_update,
    reestimate,
    running_statistics,
    using_batch_statistics,
)
from normplugins.norms.swap import SwapReport, swap_norms

for _module in iter_modules(__path__):
    if not _module.name.startswith("_"):
        import_module(f"{__name__}.{_module.name}")
for _entry in entry_points(group=__name__):
    import_module(_entry.module)

__all__ = [
    "EpsSettings",
    "GroupScalingSettings",
    "KernelSettings",
    "NormConfig",
    "RunningNorm",
    "RunningSettings",
    "SwapReport",
    "all_settings",
    "build_norm",
    "end_update",
    "has_final_warmup",
    "has_statistics",
    "known_norms",
    "reestimate",
    "register_norm",
    "running_statistics",
    "sees_sentence",
    "setting",
    "swap_norms",
    "updates_in_backward",
    "using_batch_statistics",
    "using_padding_mask",
]
