"""``normplugins norms``: list the norms with their settings."""

import argparse
from typing import Any

from normplugins.utils.steps import loading
from normplugins.utils.terminal import definitions, say, terminal_width


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no argument."""


def execute(_: argparse.Namespace) -> None:
    """Print the norms with their settings and defaults, from the registry."""
    with loading():
        from normplugins.norms import all_settings, known_norms
    rows = {}
    for name, summary in known_norms().items():
        settings = [f"{key}={_default(one, name)}" for key, one in all_settings().items() if name in one.defaults]
        rows[name] = "\n".join([summary.replace("`", ""), *([" ".join(settings)] if settings else [])])
    print(definitions(rows, terminal_width()))
    say("\nheads: the number of attention heads. A run takes norm=NAME and norm.SETTING=VALUE;")
    say("`normplugins run EXPERIMENT norm=NAME --cfg` explains the settings of a norm.")


def _default(one: Any, name: str) -> str:
    default = one.defaults[name]
    if name in one.per_head:
        return "heads"
    return "null" if default is None else str(default).lower()
