"""The names of a model's norms, and their settings ``norm_<setting>``, which all norms of the model share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import make_dataclass, replace
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass

from normplugins.norms import NormConfig, all_settings, updates_in_backward
from normplugins.utils.errors import UserError
from normplugins.utils.settings import setting

NORM_KEYS = ("encoder_norm", "decoder_norm", "norm")
"""The settings that hold the norm of a stack: the first two in a translation model, the last in a language model."""
_NORM_FIELDS = [
    (f"norm_{name}", one.type if one.default is not None else Optional[one.type], setting(one.default, one.help))  # noqa: UP045
    for name, one in all_settings().items()
]
NormSettings: Any = make_dataclass("NormSettings", _NORM_FIELDS, bases=(FairseqDataclass,))
"""Base class of a model's settings: every setting of a norm as ``norm_<setting>``. None: the norm's own default."""


SITES = ("attention", "ffn", "final")
"""The places of a stack's norms: at its attentions, at its feed-forward parts, and at the end of a pre-norm stack."""


def parse_norms(text: str) -> dict[str | int, str]:
    """Parse a stack's norm setting: return the norm of each site (of ``SITES``) or of each layer, counted from 0.

    ``pn`` is the norm of every site, ``{attention:pn,ffn:ln,final:ln}`` names one for each site (without ``final`` in a
    post-norm stack), and ``[pn,pn,ln]`` one for each layer.

    Raises:
        UserError: the text is none of these.
    """
    names = [name.strip() for name in text.strip()[1:-1].split(",")]
    if text.startswith("[") and text.endswith("]"):
        return dict(enumerate(names))
    if not text.startswith("{"):
        return dict.fromkeys(SITES, text)
    pairs = (name.replace(" ", "").partition(":") for name in names if ":" in name)
    norms: dict[str | int, str] = {site: norm for site, _, norm in pairs}
    if not text.endswith("}") or len(norms) != len(names) or {*norms, "final"} != {*SITES}:
        raise _incomplete(text)
    return norms


def check_sites(key: str, text: str, pre_norm: bool) -> None:
    """Raise UserError if the norm setting ``key`` of a pre-norm stack does not name the norm at the stack's end."""
    if pre_norm and text.startswith("{") and "final" not in parse_norms(text):
        raise _incomplete(f"{key}={text}")


def _incomplete(text: str) -> UserError:
    return UserError(
        f"{text} does not name the norm of each site; write {{attention:pn,ffn:ln,final:ln}}, or for a post-norm stack "
        "{attention:pn,ffn:ln}"
    )


def norm_at(text: str, site: str, layer: int, layers: int) -> str:
    """Return the norm at a site (one of ``SITES``) of a layer (counted from 0) in a stack of ``layers`` layers.

    If the setting names a norm for each layer, the last layer's norm is also the final norm of the stack.

    Raises:
        UserError: as :func:`parse_norms`, or the number of norms is not the number of layers.
    """
    norms = parse_norms(text)
    if site in norms:
        return norms[site]
    if len(norms) != layers:
        raise UserError(f"{text} names {len(norms)} norms for {layers} layers")
    return norms[layers - 1 if site == "final" else layer]


def names_in(text: str) -> list[str]:
    """Return the distinct norms that a stack's norm setting names; raises UserError as :func:`parse_norms` does."""
    return list(dict.fromkeys(parse_norms(text).values()))


def norm_names(cfg: Any) -> dict[str, list[str]]:
    """Return setting -> its norms, for each norm setting of a model: those of its stacks, and ``qk_norm``."""
    return {key: names_in(text) for key in (*NORM_KEYS, "qk_norm") if (text := getattr(cfg, key, None))}


def all_norm_names(cfg: Any) -> list[str]:
    """Return all norms of a model, each once."""
    return list(dict.fromkeys(name for names in norm_names(cfg).values() for name in names))


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Turn a norm's ValueError into a UserError that names the setting."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error


def norm_config(cfg: Any, name: str) -> NormConfig:
    """Return the NormConfig of a norm with a model's ``norm_<setting>`` values."""
    return NormConfig(name, **{key: getattr(cfg, f"norm_{key}", None) for key in all_settings()})


def unread_settings(cfg: Any) -> dict[str, Any]:
    """Return ``norm_<setting>`` -> its default, for each setting that no norm of the model reads.

    Raises:
        UserError: an unknown norm, or a value out of range.
    """
    read = set().union(*_settings_read(cfg).values())
    return {f"norm_{name}": one.default for name, one in all_settings().items() if name not in read}


def refuse_unread_settings(cfg: Any, prefix: str = "norm_") -> None:
    """Refuse a norm setting that no norm of the model reads, unless it has its default, and a norm of a missing site.

    Do not call it for the settings of a checkpoint, which may have been written when such settings were accepted.

    Args:
        cfg: the model's settings.
        prefix: the prefix under which the user sets these settings: ``norm.``, or ``norm_`` in fairseq's tools, whose
            options the message names too.

    Raises:
        UserError: there is such a setting or norm, or as :func:`unread_settings`. The message lists the settings that
            the norms read.
    """
    for stack in NORM_KEYS if not cfg.normalize_before else ():
        text = getattr(cfg, stack, "")
        if text.startswith("{") and "final" in (named := parse_norms(text)):
            sites = ",".join(f"{site}:{named[site]}" for site in SITES[:2])
            raise UserError(f"{stack}={text}: only a pre-norm stack ends with a norm; write {stack}={{{sites}}}")
    key = next((key for key, default in unread_settings(cfg).items() if getattr(cfg, key) != default), None)
    if key is None:
        return
    name, value, norms = key.removeprefix("norm_"), str(getattr(cfg, key)).lower(), _settings_read(cfg)
    settings = all_settings()

    def written(name: str, value: str = "") -> str:
        option = f" (--norm-{name.replace('_', '-')})" if prefix == "norm_" else ""
        return f"{prefix}{name}{value}{option}"

    for switch in settings[name].switches:
        if key not in unread_settings(replace(cfg, **{f"norm_{switch}": settings[switch].type(1)})):
            off, on = ("off", "=true") if settings[switch].type is bool else ("0", "")
            why = f" while {prefix}{switch} is {off}: set {written(switch, on)} to use it"
            break
    else:
        why = ": " + "; ".join(f"{norm} reads {', '.join(read) or 'no setting'}" for norm, read in norms.items())
    raise UserError(f"{written(name, f'={value}')} has no effect on {' and '.join(norms)}{why}")


def refuse_loss_scale(cfg: Any, option: str) -> None:
    """Refuse ``option``, which changes the scale of the loss, with a norm that keeps a statistic of scaled gradients.

    Raises:
        UserError: the model has such a norm; the message advises to train in bfloat16.
    """
    if kept := [name for name in all_norm_names(cfg) if updates_in_backward(name)]:
        raise UserError(
            f"{option} changes the scale of the loss, and {kept[0]} keeps a statistic of scaled gradients between "
            "updates: use fairseq-hydra-train with common.bf16=true, which does not scale the loss"
        )


def _settings_read(cfg: Any) -> dict[str, list[str]]:
    """Return norm -> the settings that it reads, for the norms of the model."""
    read: dict[str, list[str]] = {}
    for key, names in norm_names(cfg).items():
        with naming(key):
            read |= {name: norm_config(cfg, name).settings_read() for name in names}
    return read
