"""The names of a model's norms, and which of them takes which of the settings ``norm_<setting>``."""

from dataclasses import fields, make_dataclass, replace
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass

from normplugins.norms import (
    EpsSettings,
    KernelSettings,
    NormConfig,
    RunningSettings,
    all_settings,
    known_norms,
    updates_in_backward,
)
from normplugins.utils.errors import UserError
from normplugins.utils.settings import setting

NORM_KEYS = ("encoder_norm", "decoder_norm", "norm")
"""The settings that hold the norm of a stack: the first two in a translation model, the last in a language model."""
SHARED = {each.name for base in (EpsSettings, KernelSettings, RunningSettings) for each in fields(base)}
"""The settings that all norms of a model share, because they mean the same in each."""
_NORM_NAME = setting(None, "the norm that takes the norm_ settings first; by default the first norm of the model")
_NORM_FIELDS = [
    ("norm_name", Optional[str], _NORM_NAME),  # noqa: UP045
    *(
        (f"norm_{name}", one.type if one.default is not None else Optional[one.type], setting(one.default, one.help))  # noqa: UP045
        for name, one in all_settings().items()
    ),
]
NormSettings: Any = make_dataclass("NormSettings", _NORM_FIELDS, bases=(FairseqDataclass,))
"""Base class of a model's settings: every setting of a norm as ``norm_<setting>``. None stands for its own default."""


def final_key(key: str) -> str:
    """Return the setting that may name another norm for the end of a stack: decoder_final_norm for decoder_norm."""
    return f"{key.removesuffix('norm')}final_norm"


SITES = ("attention", "ffn", "final")
"""The places of a stack's norms: at its attentions, at its feed-forward parts, and at its end."""


def parse_norms(text: str) -> str | list[str] | dict[str, str]:
    """Return what a stack's norm setting says: one norm, one for each layer, or one for each site.

    ``pn`` is one norm, ``[pn,pn,ln]`` one for each layer, ``{attention:pn,ffn:ln,final:ln}`` one for each site.

    Raises:
        UserError: the text is none of these.
    """
    names = [name.strip() for name in text.strip()[1:-1].split(",")]
    if text.startswith("[") and text.endswith("]"):
        return names
    if not text.startswith("{"):
        return text
    pairs = dict(name.replace(" ", "").split(":", 1) for name in names if ":" in name)
    if not text.endswith("}") or len(pairs) != len(names) or set(pairs) != set(SITES):
        raise UserError(f"{text} does not name the norm of each site; write {{attention:pn,ffn:ln,final:ln}}")
    return pairs


def norm_at(text: str, site: str, layer: int, layers: int) -> str:
    """Return the norm at a site, one of ``SITES``, of a layer, counted from 0, in a stack of ``layers``.

    With a norm for each layer, the last one's is also at the stack's end.

    Raises:
        UserError: as :func:`parse_norms`, or the number of norms is not the number of layers.
    """
    norms = parse_norms(text)
    if isinstance(norms, list):
        if len(norms) != layers:
            raise UserError(f"{text} names {len(norms)} norms for {layers} layers")
        return norms[-1 if site == "final" else layer]
    return norms if isinstance(norms, str) else norms[site]


def names_in(text: str) -> list[str]:
    """Return the different norms that a stack's norm setting names. Raises UserError as :func:`parse_norms`."""
    norms = parse_norms(text)
    if isinstance(norms, str):
        return [norms]
    return list(dict.fromkeys(norms if isinstance(norms, list) else norms.values()))


def norm_names(cfg: Any) -> dict[str, list[str]]:
    """Return setting -> its norms for the stacks of a model, their ends that have another norm, and ``qk_norm``."""
    keys = [*(name for key in NORM_KEYS for name in (key, final_key(key))), "qk_norm"]
    return {key: names_in(text) for key in keys if (text := getattr(cfg, key, None))}


def all_norm_names(cfg: Any) -> list[str]:
    """Return all norms of a model, each once."""
    return list(dict.fromkeys(name for names in norm_names(cfg).values() for name in names))


def norms_in_order(cfg: Any) -> list[tuple[str, bool]]:
    """Return the known norms of a model, each once, in the order in which they take settings: see :func:`norm_config`.

    A norm of queries and keys comes last, as (name, True), and all others as (name, False).
    """
    places = {(name, key == "qk_norm"): None for key, names in norm_names(cfg).items() for name in names}
    first = (getattr(cfg, "norm_name", None), False)
    return sorted((place for place in places if place[0] in known_norms()), key=lambda place: place != first)


def norm_config(cfg: Any, name: str, of_heads: bool = False) -> NormConfig:
    """Return the NormConfig of a norm with those ``norm_<setting>`` values of a model that are meant for it.

    All norms of a model take the settings in ``SHARED``. Every other setting is taken by one norm, the first that reads
    it, and the others have their own default. First comes the norm ``norm_name``, then those of the encoder, those of
    the decoder, and at last the norm of queries and keys (``of_heads``), even if a stack has the same one.

    Raises:
        ValueError: a value out of range, of this norm or of one before it.
    """
    given = {key: getattr(cfg, f"norm_{key}", None) for key in all_settings()}
    for other in norms_in_order(cfg):
        if other == (name, of_heads):
            break
        taken = {*NormConfig(other[0], **given).settings_read()} - SHARED
        given = {key: value for key, value in given.items() if key not in taken}
    return NormConfig(name, **given)


def kept_settings(cfg: Any, changed: Any) -> dict[str, Any]:
    """Return the ``norm_<setting>`` values for a model ``changed`` whose norms are to keep their settings in ``cfg``.

    A setting that no norm of ``changed`` reads has its default.

    Raises:
        ValueError: a value out of range.
    """
    shared = all_settings()
    kept = {key: one.default for key, one in shared.items()}
    for place in reversed(norms_in_order(changed)):  # the first norm that reads a setting takes it
        config = norm_config(cfg, *place)
        kept |= {key: config.settings.get(key, shared[key].default) for key in config.settings_read()}
    return {f"norm_{key}": value for key, value in kept.items()}


def unread_settings(cfg: Any) -> dict[str, Any]:
    """Return ``norm_<setting>`` -> its default, for each setting that no norm of the model reads.

    Raises:
        UserError: an unknown norm, or a value out of range.
    """
    read = set().union(*_settings_read(cfg).values())
    return {f"norm_{name}": one.default for name, one in all_settings().items() if name not in read}


def refuse_unread_settings(cfg: Any, prefix: str = "norm_") -> None:
    """Refuse a norm setting that is not at its default and that no norm of the model reads.

    Do not call it for the settings of a checkpoint, which may have been written when such settings were accepted.

    Args:
        cfg: the model's settings.
        prefix: the prefix of a setting where the user sets it: ``norm_`` or ``norm.``.

    Raises:
        UserError: the first such setting, its value, the norms and what they read; or as :func:`unread_settings`.
    """
    key = next((key for key, default in unread_settings(cfg).items() if getattr(cfg, key) != default), None)
    if key is None:
        return
    name, value, norms = key.removeprefix("norm_"), str(getattr(cfg, key)).lower(), _settings_read(cfg)
    settings = all_settings()
    for switch in settings[name].switches:
        if key not in unread_settings(replace(cfg, **{f"norm_{switch}": settings[switch].type(1)})):
            off, on = ("off", "=true") if settings[switch].type is bool else ("0", "")
            why = f" while {prefix}{switch} is {off}: set {prefix}{switch}{on} to use it"
            break
    else:
        why = ": " + "; ".join(f"{norm} reads {', '.join(read) or 'no setting'}" for norm, read in norms.items())
    raise UserError(f"{prefix}{name}={value} changes nothing about {' and '.join(norms)}{why}")


def refuse_loss_scale(cfg: Any, option: str, instead: str) -> None:
    """Refuse ``option``, which changes the scale of the loss, with a norm that keeps a statistic of scaled gradients.

    Raises:
        UserError: the model has such a norm; the message advises to use ``instead``.
    """
    if kept := [name for name in all_norm_names(cfg) if updates_in_backward(name)]:
        raise UserError(
            f"{option} changes the scale of the loss, and {kept[0]} keeps a statistic of scaled gradients between "
            f"updates: {instead} has no scale"
        )


def _settings_read(cfg: Any) -> dict[str, list[str]]:
    """Return norm -> the settings that it reads, for the norms of the model."""
    read: dict[str, list[str]] = {}
    for key, names in norm_names(cfg).items():
        for name in names:
            try:
                read.setdefault(name, norm_config(cfg, name, of_heads=key == "qk_norm").settings_read())
            except ValueError as error:
                raise UserError(f"{key}: {error}") from error
    return read
