"""Settings as dataclass fields that carry their documentation and their valid range."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import Field, field
from typing import Any, get_args

_BOUNDS = (
    ("minimum", "at least", operator.ge),
    ("maximum", "at most", operator.le),
    ("above", "above", operator.gt),
    ("below", "below", operator.lt),
)
_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def setting(
    default: Any,
    doc: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    above: float | None = None,
    choices: Sequence[Any] | None = None,
    changes_result: bool = True,
    **metadata: Any,
) -> Any:
    """Return a dataclass field with its documentation and valid range in ``metadata``.

    ``minimum`` and ``maximum`` are inclusive bounds, ``above`` and ``below`` exclusive ones. None is valid only for
    a setting whose type allows it. ``changes_result`` is False for a setting that cannot change a result, such as a
    logging interval. Further keyword arguments are added to the metadata unchanged.
    """
    limits = {"minimum": minimum, "maximum": maximum, "below": below, "above": above, "choices": choices}
    return field(default=default, metadata={"help": doc, "changes_result": changes_result, **limits, **metadata})


def invalid_value(declared: Field[Any], value: Any, prefix: str = "") -> str | None:
    """Return a message if ``value`` has the wrong type or range for a field of :func:`setting`, None if it is valid.

    A whole number is a valid float, but True is not a number. Types given as strings are not checked.
    """
    limits, name = declared.metadata, f"{prefix}{declared.name}"
    if (choices := limits.get("choices")) is not None and value not in choices:
        return f"unknown {name} {value!r}; known: {', '.join(map(str, choices))}"
    if value is None:
        optional = declared.default is None or "None" in str(declared.type) or "Optional" in str(declared.type)
        return None if optional else f"{name} needs a value: {limits.get('help', 'null is not allowed')}"
    types = get_args(declared.type) or (declared.type,)
    if all(isinstance(each, type) for each in types) and not any(_is_a(value, each) for each in types):
        names = [_TYPE_NAMES.get(each, each.__name__) for each in types if each is not type(None)]
        hint = " (quote it in YAML: 'no')" if isinstance(value, bool) and str in types else ""
        return f"{name} is {value!r}, but must be {' or '.join(names)}{hint}"
    for key, words, holds in _BOUNDS:
        if (limit := limits.get(key)) is not None and not holds(value, limit):
            return f"{name} is {value}, but must be {words} {limit}"
    return None


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
