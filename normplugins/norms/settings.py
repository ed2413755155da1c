"""Settings that several norms share, as base classes of the norms' own settings.

Each norm's file declares its settings as a frozen dataclass. :func:`setting` makes its fields, with the default, the
documentation and the valid range. A field with ``switch=NAME`` has an effect only if the setting NAME is neither
false nor 0. A field with ``per_head=True`` defaults to the number of attention heads inside a model.
"""

from dataclasses import dataclass

from normplugins.utils.settings import setting as setting  # re-exported

GROUP_SCALING = "first divide each token's channel groups by the group's root mean square"


@dataclass(frozen=True)
class EpsSettings:
    """Settings of a norm that divides by a root."""

    eps: float = setting(1e-5, "added to a variance or quadratic mean under the root", above=0)


@dataclass(frozen=True)
class GroupScalingSettings:
    """Settings of a norm that may first divide each token's channel groups by their root mean square."""

    group_scaling: bool = setting(False, GROUP_SCALING)
    groups: int = setting(
        4,
        "channel groups of group scaling; in a model the default is one group per attention head",
        minimum=1,
        switch="group_scaling",
        per_head=True,
    )


@dataclass(frozen=True)
class RunningSettings:
    """Settings of a norm with running statistics."""

    sync: str = setting(
        "none",
        "statistics across processes. none: each process has its own; batch: statistics of all processes' tokens, in "
        "forward and backward; deferred: running statistics are summed over processes once per update (implies "
        "per_update)",
        choices=("none", "batch", "deferred"),
    )
    per_update: bool = setting(
        False,
        "update running statistics once per update, with the tokens of all micro-batches; off: once per micro-batch",
    )


@dataclass(frozen=True)
class KernelSettings:
    """Settings of a norm with fast code in ``norms/backends``."""

    kernels: str = setting(
        "auto",
        "auto: the fastest code for the device; plain: the PyTorch reference; triton: the Triton kernels, which auto "
        "selects on a GPU",
        choices=("auto", "plain", "triton"),
        changes_result=False,
    )
