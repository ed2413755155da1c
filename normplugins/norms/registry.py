"""What a norm is told (``NormConfig``), and the registry that turns a name into a module.

A field that is ``None`` means "this norm's own default". Those are kept in one place, beside each norm: its
constructor's keyword defaults, and where one module serves several names, the table in ``@register_norm``.
"""
# fairseq reads the types below as strings and knows ``Optional[X]`` only.
# ruff: noqa: UP045

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Optional, TypeVar

from torch import nn

from normplugins.norms.backends.dispatch import KERNELS

SYNCS = ("none", "batch", "deferred")


@dataclass(frozen=True)
class NormConfig:
    """A normalization and its settings.

    A norm reads the fields that it has, see :func:`settings_read`, and ignores the rest, so that one set of settings
    serves an encoder's PN and its decoder's LN. ``None`` stands for the norm's own default, which is what its paper or
    its released code uses. The boolean fields are the differences between the released code and the papers. A field
    whose metadata names another field as its ``switch`` is not read where a norm has that one, and it is off.
    """

    name: str = "ln"
    """which norm: see :func:`known_norms`"""
    eps: float = 1e-5
    """added to a variance or quadratic mean, under the root"""
    groups: Optional[int] = field(default=None, metadata={"switch": "group_scaling"})
    """channel groups of group scaling, of RMSNorm and of GroupNorm; unless given, group scaling in a model has one
    group per attention head (``bn_released``: one in all), RMSNorm one and GroupNorm 4"""
    warmup_updates: Optional[int] = None
    """while the update count t <= this, PN's forward divides by the batch's quadratic mean; 0: never"""
    alpha_fwd: float = 0.9
    """decay of the running quadratic mean psi^2"""
    alpha_bkw: float = 0.9
    """decay of nu, the running quantity of PN's approximate backward"""
    momentum: Optional[float] = None
    """weight of the newest batch in BN's running mean and variance, and in the mean of mean-only BN"""
    sync: str = "none"
    """statistics across processes: ``none``: each keeps its own, as released; ``batch``: means over all their tokens,
    forward and backward; ``deferred``: running statistics are summed once an update (implies per_update)"""
    per_update: bool = False
    """running statistics take one step an update, of all its micro-batches' tokens; off: one a micro-batch"""
    kernels: str = "auto"
    """code that computes the norm: ``auto``: the fastest for its device; ``plain``: the equations as they stand;
    ``triton``: Triton's kernels, which ``auto`` takes on a GPU"""

    group_scaling: Optional[bool] = None
    """first divide each token's channels, in ``groups`` groups, by the group's root mean square"""
    double_update: Optional[bool] = None
    """for t < ``warmup_updates``, psi^2 takes a cumulative mean and then the decayed update; off: the former alone"""
    batch_backward: Optional[bool] = None
    """PN's dL/dx divides by the batch's quadratic mean; off: by the psi that the forward divided by"""
    padding_in_backward: Optional[bool] = None
    """padding is normalized like a token and counted in the backward's means, dL/dweight and dL/dbias"""
    unscaled_nu: Optional[bool] = None
    """``ema_gz`` adds mean(x~ x^) without (1 - alpha_bkw) and so holds nu / (1 - alpha_bkw); off: it holds nu"""
    padding_filled: Optional[bool] = None
    """padding takes the channel means of the real tokens, and is then counted as tokens by BN"""


@dataclass(frozen=True)
class _Entry:
    build: Callable[..., nn.Module]
    settings: Mapping[str, Any]
    fixed: Mapping[str, Any]


_NORMS: dict[str, _Entry] = {}
_FIELDS = frozenset(field.name for field in fields(NormConfig)) - {"name"}
_M = TypeVar("_M", bound=type[nn.Module])


def register_norm(name: str, *, fixed: Mapping[str, Any] | None = None, **defaults: Any) -> Callable[[_M], _M]:
    """Class decorator: ``NormConfig(name=name)`` builds this module.

    The module's constructor takes ``(dim, *, ...)``; each keyword that is a field of ``NormConfig`` is given that
    field's value or, where it is None, the default in ``defaults``, else the constructor's; those in ``fixed`` are
    no settings of the norm. Its ``forward`` takes ``(x, padding_mask=None)``. Decorators stack, so that one module
    serves several names.

    A norm with the settings ``group_scaling`` and ``groups`` takes, in a model, one channel group per attention head
    where the former is on and the latter is not given. A norm with running statistics is a ``RunningNorm``, of
    ``statistics.py``, whose constructor takes ``sync`` and ``per_update``.

    Three things a module may have besides: ``sees_sentence = True`` says that a position sees its whole sentence at
    evaluation too, so that no decoder takes it and no language model with it passes for causal; a method
    ``wrap_linears(sublayer)`` is called once with the sublayer that the norm stands at, to change its linear maps; a
    method ``fixed_affine()`` gives scale and shift (C,), in float64, where evaluation is y = scale x + shift for every
    token, so that ``normplugins fold`` can fold it, and raises ValueError with the reason where its settings forbid it.

    Raises ValueError for a name already taken, for a default that the constructor does not take, or for
    a setting without a default.
    """

    always = fixed or {}

    def register(module: _M) -> _M:
        if name in _NORMS:
            raise ValueError(f"norm {name!r} is registered already, by {_NORMS[name].build}")
        parameters = inspect.signature(module).parameters
        settings = {key: parameters[key].default for key in parameters if key in _FIELDS - always.keys()}
        if unknown := sorted((defaults.keys() - settings.keys()) | (always.keys() - parameters.keys())):
            raise ValueError(f"norm {name!r}: {module.__name__} takes no {', '.join(unknown)}")
        if bare := sorted(key for key in settings.keys() - defaults.keys() if settings[key] is inspect.Parameter.empty):
            raise ValueError(f"norm {name!r}: {module.__name__} has no default for {', '.join(bare)}")
        _NORMS[name] = _Entry(module, settings | defaults, always)
        return module

    return register


def known_norms() -> list[str]:
    """Names of the registered norms, sorted."""
    return sorted(_NORMS)


def sees_sentence(name: str) -> bool:
    """Whether a position sees its whole sentence at evaluation, with this norm; False for an unknown one."""
    return name in _NORMS and bool(getattr(_NORMS[name].build, "sees_sentence", False))


def has_kernels(name: str) -> bool:
    """Whether this norm has code besides the plain, which ``kernels`` is about; False if unknown."""
    return name in _NORMS and "kernels" in _NORMS[name].settings


def has_statistics(name: str) -> bool:
    """Whether this norm keeps running statistics, which ``sync`` and ``per_update`` are about; False if unknown."""
    return name in _NORMS and "sync" in _NORMS[name].settings


def settings_read(config: NormConfig) -> list[str]:
    """Names of the fields that the norm reads with these settings. Raises ValueError as :func:`build_norm` does."""
    settings = _settings(config)
    read = (f for f in fields(NormConfig) if f.name in settings)
    return [f.name for f in read if settings.get(f.metadata.get("switch", ""), True)]


def _settings(config: NormConfig, heads: int | None = None) -> dict[str, Any]:
    """The settings that ``config.name`` has, its own defaults filled in. Raises ValueError on a wrong value."""
    if config.name not in _NORMS:
        raise ValueError(f"unknown norm {config.name!r}; known norms: {', '.join(known_norms())}")
    own = _NORMS[config.name].settings
    given = {key: value for key, value in asdict(config).items() if key in _FIELDS and value is not None}
    settings = {key: given.get(key, default) for key, default in own.items()}
    if heads and settings.get("group_scaling") and "groups" in own and "groups" not in given:
        settings["groups"] = heads
    checks = {
        "eps": config.eps > 0,
        "groups": settings.get("groups", 1) >= 1,
        "warmup_updates": settings.get("warmup_updates", 0) >= 0,
        "alpha_fwd": 0 <= config.alpha_fwd < 1,
        "alpha_bkw": 0 <= config.alpha_bkw < 1,
        "momentum": 0 < settings.get("momentum", 1) <= 1,
    }
    if wrong := [f"{key}={getattr(config, key)}" for key, right in checks.items() if not right]:
        raise ValueError(
            f"norm {config.name!r}: {', '.join(wrong)} out of range; "
            "eps > 0, groups >= 1, warmup_updates >= 0, 0 <= alpha < 1, 0 < momentum <= 1"
        )
    if config.sync not in SYNCS:
        raise ValueError(f"norm {config.name!r}: unknown sync={config.sync!r}; choose one of {', '.join(SYNCS)}")
    if config.kernels not in KERNELS:
        raise ValueError(
            f"norm {config.name!r}: unknown kernels={config.kernels!r}; choose one of {', '.join(KERNELS)}"
        )
    if settings.get("sync") == "deferred" and "per_update" in settings:
        settings["per_update"] = True
    return settings


def resolve_norm(config: NormConfig, heads: int | None = None) -> NormConfig:
    """``config`` with the norm's own defaults filled in; what the norm does not have stays as given.

    ``heads``, of the attention that the norm stands at, are the groups of a group scaling that says none.
    Raises ValueError as :func:`build_norm` does.
    """
    return replace(config, **_settings(config, heads))


def build_norm(config: NormConfig, dim: int) -> nn.Module:
    """The norm that ``config`` describes, for ``dim`` channels.

    Its ``forward(x, padding_mask=None)`` takes x (T, B, C) with padding_mask (B, T), or x (N, C) with padding_mask
    (N,), True where padding, and returns a tensor of x's shape and dtype.

    Raises ValueError for an unknown name (listing the known ones), a value out of range, or groups that do not
    divide dim.
    """
    settings = _settings(config)
    entry = _NORMS[config.name]
    return entry.build(dim, **settings, **entry.fixed)
