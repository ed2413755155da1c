"""Short display names of runs, which show what differs from the experiment, such as ``pn-nogs-s1``."""

import hashlib
import re

LONGEST = 40
"""The maximum number of characters of a name without the seed."""
_VALUE_SAYS_IT = re.compile(r"[A-Za-z_]+")


def display_name(variant: str, seed: int) -> str:
    """Return a short name of a run within its experiment.

    The name has the parts of the cell's name in the same order. A switch is written as the initials of its key, after
    ``no`` if it is off; the choice of a config group as its option, with ``-recipe`` after a recipe; any other setting
    as the initials of its key, followed by its value. A key of one word is not shortened.
    ``pn,norm.group_scaling=false,optimization.lr=0.005`` with seed 1 is ``pn-nogs-lr0.005-s1``. A name that is too long
    is cut and ends with a digest of the cell's name. The record holds the cell's name as ``variant``, and every
    setting.
    """
    norm, *items = variant.split(",")
    name = "-".join([norm, *map(_short, items)])
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 9].rstrip('-')}-{hashlib.sha256(variant.encode()).hexdigest()[:8]}"
    return f"{name}-s{seed}"


def _short(item: str) -> str:
    key, equals, value = item.partition("=")
    words = key.rpartition(".")[2].split("_")
    name = words[0] if len(words) == 1 else "".join(word[:1] for word in words)
    if not equals:  # the rest of a cell's name that was cut
        return item
    if value in ("true", "false"):
        return name if value == "true" else f"no{name}"
    if "." not in key and _VALUE_SAYS_IT.fullmatch(value):
        return f"{value}-recipe" if key == "recipe" else value  # recipes have the names of norms
    return f"{name}{value}"
