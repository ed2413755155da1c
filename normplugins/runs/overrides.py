"""Quotes the values of text settings, which Hydra's grammar might otherwise read as numbers or refuse."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache
from typing import get_args, get_type_hints

from normplugins.corpora import CORPORA
from normplugins.models.check import MODELS
from normplugins.runs.settings import SETTINGS_BY_TASK, declared


def quote_texts(overrides: Sequence[str], sweep: bool = False) -> list[str]:
    """Quote the values of settings of type ``str``, as in ``experiment=2026`` and ``data_dir=/a=b (2)``.

    Values that are quoted already, ``null`` and values with an interpolation ``${...}`` do not change.

    Args:
        overrides: Hydra overrides, one ``key=value`` each.
        sweep: whether commas separate the values of several runs, as with ``run -m``.
    """
    return [_quote(override, sweep) for override in overrides]


def _quote(override: str, sweep: bool) -> str:
    key, equals, value = override.partition("=")
    if not equals or key.lstrip("+") not in text_settings():
        return override
    interpolated = re.search(r"\$\\?\{", value)  # Hydra's sweeper escapes the brace
    several = sweep and "," in re.sub(r"\[[^]]*\]|\{[^}]*\}", "", value)  # a comma in brackets does not separate runs
    if value in ("", "null") or value[0] in "'\"" or interpolated or several:
        return override
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    return f"{key}='{escaped}'"


@cache
def text_settings() -> frozenset[str]:
    """Return the keys of all settings of the project that may hold text."""
    return frozenset(key for key, type_ in _typed_settings() if type_ is str or str in get_args(type_))


def _typed_settings() -> Iterator[tuple[str, object]]:
    for settings in SETTINGS_BY_TASK.values():
        yield from ((key, each.type) for key, each in declared(settings))
    for model in MODELS.values():
        yield from ((f"model.{each.name}", each.type) for each in fields(model))
    for corpus in CORPORA.values():
        yield from ((f"corpus.{key}", type_) for key, type_ in get_type_hints(corpus).items())
