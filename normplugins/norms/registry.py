"""The registry of norms, which builds a module from a name and settings."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from typing import Any, TypeVar, cast, get_type_hints

from torch import nn

from normplugins.norms.inputs import accept_masks, prevent_fusion
from normplugins.utils.settings import invalid_value


@dataclass(frozen=True, init=False)
class NormConfig:
    """A norm's name and its settings; a setting that is None or omitted takes the norm's default.

    A config may hold settings that its norm does not read, so that an encoder's PN and a decoder's LN can share one set
    of settings; :meth:`settings_read` lists the settings that the norm reads. Each setting is an attribute, which is
    None if the setting is not given.

    Raises:
        ValueError: a setting that no registered norm has.
    """

    name: str
    settings: Mapping[str, Any] = field(hash=False)

    def __init__(self, name: str = "ln", **settings: Any) -> None:
        known = all_settings()
        if unknown := sorted(settings.keys() - known.keys()):
            raise ValueError(f"unknown norm setting {unknown[0]!r}; known settings: {', '.join(known)}")
        given = {key: value for key, value in settings.items() if value is not None}
        vars(self).update(name=name, settings=given)

    def replace(self, **changes: Any) -> "NormConfig":
        """Return a copy with other values of ``name`` or of settings."""
        return NormConfig(**{"name": self.name, **self.settings, **changes})

    def resolve(self, heads: int | None = None) -> "NormConfig":
        """Return a copy with the norm's own defaults filled in; settings that the norm does not have are kept.

        ``heads`` is the number of attention heads, the default of a setting with ``per_head=True``.
        Raises ValueError as :func:`build_norm` does.
        """
        return self.replace(**_values(self, heads))

    def settings_read(self) -> list[str]:
        """Return the settings that the norm reads with these values; raises ValueError as :func:`build_norm` does."""
        values = _values(self)
        return [key for key, each in _NORMS[self.name].declared.items() if _has_effect(each, values)]

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_") or key not in all_settings():
            raise AttributeError(f"a NormConfig has no setting {key!r}")
        return self.settings.get(key)


@dataclass(frozen=True)
class NoSettings:
    """Settings of a norm that has none."""


@dataclass(frozen=True)
class _Entry:
    module: type[nn.Module]
    settings: type
    declared: Mapping[str, Field[Any]]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    summary: str


_NORMS: dict[str, _Entry] = {}
_M = TypeVar("_M", bound=type[nn.Module])


def register_norm(
    name: str,
    settings: type = NoSettings,
    *,
    summary: str | None = None,
    fixed: Mapping[str, Any] | None = None,
    **defaults: Any,
) -> Callable[[_M], _M]:
    """Return a class decorator that registers a norm's module under a name, for ``build_norm(name, dim)``.

    The module's constructor takes ``(dim, settings)``, where ``settings`` is an instance of the given dataclass, and
    its ``forward`` takes ``(x, padding_mask=None)`` with x (T, B, C) or (N, C). The decorator checks the mask and lets
    ``forward`` take x (B, T, C) and ``attention_mask`` too. Decorators stack, so that one module serves several names.

    A norm with running statistics is a subclass of ``RunningNorm`` (statistics.py), and its settings are a subclass of
    ``RunningSettings``. A module may also have:

    - ``sees_sentence = True``: at evaluation a position sees its whole sentence. Decoders refuse such a norm, and a
      language model with it does not count as causal;
    - ``has_final_warmup = True``: the norm at the end of a stack has its own warmup, ``final_norm_warmup_updates``;
    - an attribute ``loss_term``, a scalar tensor set by each forward in training, which is added to the batch's loss;
      with several processes, gradients must be summed over processes, as in fairseq;
    - a method ``wrap_linears(sublayer)``, which is called once with the norm's sublayer and may change the sublayer's
      linear maps;
    - a method ``fixed_affine()``, which ``normplugins fold`` calls. It returns scale and shift (C,) in float64 if the
      norm is y = scale x + shift for every token at evaluation, and otherwise raises ValueError with the reason.

    Args:
        name: the norm's name; must be new.
        settings: frozen dataclass of the norm's settings, with fields made by ``normplugins.norms.setting``.
        summary: one line that says what the norm is; by default the first line of the class's docstring.
        fixed: values of settings that are fixed under this name and cannot be set.
        defaults: defaults of this name that differ from the defaults of the dataclass.

    Raises:
        ValueError: the name is registered already, the dataclass lacks a setting named here, or a setting differs in
            type or ``changes_result`` from the setting of the same name in another norm.
        TypeError: a setting has no default.
    """
    always = fixed or {}

    def register(module: _M) -> _M:
        if name in _NORMS:
            raise ValueError(f"norm {name!r} is registered already, by {_NORMS[name].module}")
        offered, types = {each.name: each for each in fields(settings)}, get_type_hints(settings)
        if unknown := sorted((defaults.keys() | always.keys()) - offered.keys()):
            raise ValueError(f"norm {name!r}: {settings.__name__} has no setting {', '.join(unknown)}")
        for key in always:
            del offered[key]
        others = all_settings()
        for key, each in offered.items():
            if each.default is MISSING:
                raise TypeError(f"{settings.__name__}.{key} has no default")
            each.type = types[key]
            if key in others and others[key].type != each.type:
                raise ValueError(f"norm {name!r}: another norm's setting {key!r} is of type {others[key].type}")
            if key in others and others[key].changes_result != each.metadata["changes_result"]:
                raise ValueError(f"norm {name!r}: another norm's setting {key!r} has another changes_result")
        own = {key: defaults.get(key, each.default) for key, each in offered.items()}
        line = summary or (module.__doc__ or "").strip().partition("\n")[0]
        accept_masks(module)
        _NORMS[name] = _Entry(module, settings, offered, own, always, line)
        return module

    return register


def known_norms() -> dict[str, str]:
    """Return name -> one-line summary for all registered norms, sorted by name."""
    return {name: _NORMS[name].summary for name in sorted(_NORMS)}


@dataclass(frozen=True)
class SharedSetting:
    """A setting that one or several norms have: its type, and its default and documentation in each norm."""

    type: Any
    changes_result: bool
    defaults: dict[str, Any] = field(default_factory=dict)
    docs: dict[str, list[str]] = field(default_factory=dict)
    switches: list[str] = field(default_factory=list)
    per_head: list[str] = field(default_factory=list)
    """the norms whose default inside a model is the number of attention heads"""

    @property
    def default(self) -> Any:
        """The default that all norms share; None if they have different ones, or if it depends on the model."""
        different = {*self.defaults.values()}
        return different.pop() if len(different) == 1 and not self.per_head else None

    @property
    def help(self) -> str:
        """The documentation of the setting: each text after the names of the norms that it applies to."""
        return "; ".join(f"{', '.join(norms)}: {doc}" for doc, norms in self.docs.items())


def all_settings() -> Mapping[str, SharedSetting]:
    """Every setting that a registered norm has, by name."""
    return _settings_of(tuple(_NORMS))


@cache
def _settings_of(norms: tuple[str, ...]) -> Mapping[str, SharedSetting]:
    shared: dict[str, SharedSetting] = {}
    for name in norms:
        entry = _NORMS[name]
        for key, each in entry.declared.items():
            one = shared.setdefault(key, SharedSetting(each.type, changes_result=each.metadata["changes_result"]))
            one.defaults[name] = entry.defaults[key]
            one.docs.setdefault(each.metadata["help"], []).append(name)
            if (switch := each.metadata.get("switch")) and switch not in one.switches:
                one.switches.append(switch)
            if each.metadata.get("per_head"):
                one.per_head.append(name)
    return shared


def sees_sentence(name: str) -> bool:
    """Whether a position sees its whole sentence at evaluation with this norm; False for an unknown norm."""
    return _flag(name, "sees_sentence")


def has_final_warmup(name: str) -> bool:
    """Whether this norm has its own warmup at the end of a stack; False for an unknown norm."""
    return _flag(name, "has_final_warmup")


def _flag(name: str, attribute: str) -> bool:
    """Whether the module of this norm sets a flag; False for an unknown norm."""
    return name in _NORMS and bool(getattr(_NORMS[name].module, attribute, False))


def has_statistics(name: str) -> bool:
    """Whether this norm has running statistics; False for an unknown norm."""
    return _flag(name, "statistics")


def updates_in_backward(name: str) -> bool:
    """Whether this norm keeps a statistic of gradients from one batch to the next; False for an unknown norm."""
    return _flag(name, "updates_in_backward")


def is_norm(module: nn.Module) -> bool:
    """Whether the module is a registered norm, or of a subclass, such as those that FSDP2 and parametrizations make."""
    return isinstance(module, tuple(entry.module for entry in _NORMS.values()))


def build_norm(config: NormConfig | str, dim: int, *, batch_first: bool | None = False, **settings: Any) -> nn.Module:
    """Build a norm for ``dim`` channels: ``build_norm("pn", 512, groups=8)`` or ``build_norm(NormConfig("pn"), 512)``.

    Its ``forward(x, padding_mask=None, *, attention_mask=None)`` returns a tensor of x's shape and dtype. x is
    (T, B, C), or (B, T, C) with ``batch_first``; a mask is (B, T) in both cases. Alternatively, x is (N, C), with a
    mask (N,). ``padding_mask`` is boolean, True at padding. ``attention_mask``, as in Hugging Face's models, is 1 at
    tokens and 0 at padding. Without a mask every position counts as a token.

    Inside ``nn.TransformerEncoderLayer`` the norm is called at evaluation too, see
    :func:`~normplugins.norms.inputs.prevent_fusion`.

    Args:
        config: the norm's name, or its config.
        dim: the number of channels C.
        batch_first: whether x is (B, T, C) rather than (T, B, C). None: not known, and masks of a 3-D x are refused.
        settings: settings of the norm, which override the settings of a NormConfig.

    Raises:
        ValueError: an unknown name (the message lists the known ones), a setting that the norm does not read, a value
            out of range, or groups that do not divide dim.
    """
    config = NormConfig(config, **settings) if isinstance(config, str) else config.replace(**settings)
    read = config.settings_read()
    if unread := sorted({key for key, value in settings.items() if value is not None} - {*read}):
        raise ValueError(f"norm {config.name!r} does not read {unread[0]}; it reads: {', '.join(read) or 'no setting'}")
    entry = _NORMS[config.name]
    norm: Any = entry.module(dim, entry.settings(**_values(config), **entry.fixed))
    norm.batch_first = batch_first
    prevent_fusion(norm)
    return cast(nn.Module, norm)


def _has_effect(setting: Field[Any], values: Mapping[str, Any]) -> bool:
    """Whether a setting has an effect: it names no switch, or its switch is on."""
    return bool(values.get(setting.metadata.get("switch") or "", True))


def _values(config: NormConfig, heads: int | None = None) -> dict[str, Any]:
    """Return the value of every setting of the norm, defaults filled in; raise ValueError for an invalid value."""
    if config.name not in _NORMS:
        raise ValueError(f"unknown norm {config.name!r}; known norms: {', '.join(known_norms())}")
    entry = _NORMS[config.name]
    values = {key: config.settings.get(key, default) for key, default in entry.defaults.items()}
    for key, each in entry.declared.items():
        if message := invalid_value(each, values[key]):
            raise ValueError(f"norm {config.name!r}: {message}")
        if heads and each.metadata.get("per_head") and key not in config.settings and _has_effect(each, values):
            values[key] = heads
    if values.get("sync") == "deferred":
        values["per_update"] = True
    return values
